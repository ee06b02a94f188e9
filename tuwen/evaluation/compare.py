"""Two evaluations of the same test queries, query by query: what changed, and is it for the worse?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from tuwen.core.errors import UserError
from tuwen.core.params import Evaluate
from tuwen.data.formats import pairs
from tuwen.data.formats.directions import DIRECTIONS, Direction
from tuwen.evaluation.figures import FIGURES
from tuwen.evaluation.headline import format_gain
from tuwen.evaluation.metric import Estimate, Metric, OfQueries, format_number
from tuwen.evaluation.ranks import RankedQueries, split_ranks
from tuwen.retrieval.intervals.resampling import compute_paired_intervals

HEADLINE, HEADLINE_K = "hit", 5  # what decides; the rest is shown: six decisions would raise six times the alarms
QUERY_COLUMNS = ["direction", "query_id", "group", "true_items"]  # must be equal, or the values do not compare
# What an evaluation depends on. Not where a row came from: more rows for training move those of the test.
DECISIVE = {
    "images": (pairs.IMAGES, ["image_id", "sha256"]),
    "texts": (pairs.TEXTS, ["text_id", "caption"]),
    "pairs": (pairs.PAIRS, ["image_id", "text_id", "label"]),
}


class Change(NamedTuple):
    """One metric of one direction at one k: base and head in its unit, head less base with its paired interval."""

    metric: Metric
    direction: str
    k: int | None
    queries: int
    base: float
    head: float
    points: Estimate

    @property
    def decides(self) -> bool:
        """Whether the gate judges by it."""
        return self.metric is FIGURES[HEADLINE] and self.k == HEADLINE_K

    @property
    def title(self) -> str:
        """The metric at this k."""
        return self.metric.make_title(self.k)


def compare_ranks(base: Path, head: Path, params: Evaluate) -> list[Change]:
    """Compare two ranks.parquet as `evaluate` writes them: each direction, each of `params.ks`.

    All metrics of FIGURES that are `in_gate`. Whole groups are drawn, the same for both
    (`resampling.compute_paired_intervals`). The order of the rows does not matter. Raises UserError when a file is
    missing, or when the two do not hold the same queries.
    """
    before, after = (_read_by_query(path) for path in (base, head))
    if not before.select(QUERY_COLUMNS).equals(after.select(QUERY_COLUMNS)):
        raise UserError(
            f"{head}: other queries, groups or truths ({after.num_rows} rows) than in {base} "
            f"({before.num_rows} rows); evaluate both on the same test split"
        )
    both = [(base, split_ranks(before, params.ks)), (head, split_ranks(after, params.ks))]
    changes: list[Change] = []
    for name, direction in DIRECTIONS.items():
        ranked = [(path, directions[name]) for path, directions in both]
        if not len(ranked[0][1].groups):
            raise UserError(f"{base}: no query of {name}; evaluate both directions: `dvc repro evaluate`")
        for metric in FIGURES.values():
            if metric.in_gate:
                changes += _compare_metric(metric, direction, ranked, params)
    return changes


def _compare_metric(
    metric: Metric, direction: Direction, ranked: Sequence[tuple[Path, RankedQueries]], params: Evaluate
) -> Iterator[Change]:
    """Yield the change at each k; ranked: the file and queries of the base, and of the head."""
    assert isinstance(metric.source, OfQueries), metric.name
    ks = [k for _, way, k in metric.list_values(params.ks) if way == direction]
    values = []
    for path, queries in ranked:
        values.append(metric.source.compute(queries.judged, params.ks))
        if values[-1].shape[1] != len(ks):
            raise UserError(f"{path}: not measured at k = {params.ks}; make the file anew: `dvc repro evaluate`")
    (_, first), (old, new), scale = ranked[0], values, metric.unit.scale
    ends = scale * compute_paired_intervals(old, new, first.groups, params.bootstrap_samples, params.seed)
    for k, was, now, (low, high) in zip(
        ks, scale * old.mean(axis=0), scale * new.mean(axis=0), ends.tolist(), strict=True
    ):
        points = Estimate(float(now - was), low, high)
        yield Change(metric, direction.name, k, len(old), float(was), float(now), points)


def _read_by_query(path: Path) -> pa.Table:
    table = pairs.read_table(path)
    if missing := [name for name in (*QUERY_COLUMNS, "best_rank") if name not in table.schema.names]:
        raise UserError(f"{path}: no column {missing[0]!r}; make the file anew: `dvc repro evaluate`")
    return table.sort_by([(name, "ascending") for name in QUERY_COLUMNS]).combine_chunks()


def require_same_test(base: Path, head: Path) -> None:
    """Raise UserError unless the test sets in two folders hold the same images, texts and true pairs.

    Only `images.parquet`, `texts.parquet` and `pairs.parquet` are read; an image counts as its bytes.
    """
    for name, (schema, columns) in DECISIVE.items():
        before, after = (
            pairs.read_table(folder / f"{name}.parquet", schema)
            .select(columns)
            .sort_by([(column, "ascending") for column in columns])
            .combine_chunks()
            for folder in (base, head)
        )
        if not before.equals(after):
            raise UserError(
                f"{head / name}.parquet: these test {name} ({after.num_rows} rows) are not the base's "
                f"({before.num_rows} rows); a comparison needs the same test split: rebase, or take the new "
                "split to the base first"
            )


def find_regressions(changes: Sequence[Change], max_drop_points: float) -> list[str]:
    """Return why the head is worse, a sentence for each reason; empty where it is not. hit@5 decides.

    max_drop_points: a drop beyond this is too much whatever its interval (params.yaml: gate.max_drop_points).
    """
    reasons = []
    for change in changes:
        value, high = change.points.value, change.points.high
        if not change.decides or high is None:
            continue
        name = f"{DIRECTIONS[change.direction].title} {change.title}"
        if high < 0:
            reasons.append(
                f"{name} fell by {-value:.1f} points: even the upper end of its interval is "
                f"{format_number(high, '+.1f')}."
            )
        if -value > max_drop_points + 1e-9:  # a drop of just the limit is allowed, rounding must not forbid it
            reasons.append(f"{name} fell by {-value:.1f} points; gate.max_drop_points allows {max_drop_points:g}.")
    return reasons


def format_changes(changes: Sequence[Change]) -> str:
    """Return the table of a comparison: base beside head in the metric's unit, the difference in points."""
    lines = ["| direction | queries | | base | head | head − base, points |", "|---|---|---|---|---|---|"]
    for change in changes:
        base, head = (format_number(value, change.metric.unit.form) for value in (change.base, change.head))
        difference = format_gain(change.points, change.metric, "**" if change.decides else "")
        title = DIRECTIONS[change.direction].title
        lines.append(f"| {title} | {change.queries} | {change.title} | {base} | {head} | {difference} |")
    return "\n".join(lines)
