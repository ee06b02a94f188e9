"""Two evaluations of the same test queries, query by query: what changed, and is it for the worse?"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.errors import UserError
from tuwen.core.params import Evaluate
from tuwen.data.formats import pairs
from tuwen.evaluation.headline import DIRECTIONS, Percent

HEADLINE_K = 5  # what the gate judges by; the other ks are shown: six judgements would cry wolf too often
ASKED = ["direction", "query_id", "group", "true_items"]  # must be equal, or the figures answer other questions
# What an evaluation depends on. Not where a row came from: more rows for training move those of the test.
DECISIVE = {
    "images": (pairs.IMAGES, ["image_id", "sha256"]),
    "texts": (pairs.TEXTS, ["text_id", "caption"]),
    "pairs": (pairs.PAIRS, ["image_id", "text_id", "label"]),
}


class Change(NamedTuple):
    """hit@k of one direction: base and head in percent, head less base in points with its paired 95 % interval."""

    direction: str
    k: int
    queries: int
    base: float
    head: float
    points: Percent


def compare_ranks(base: Path, head: Path, params: Evaluate) -> list[Change]:
    """A change for each direction and each of `params.ks`, from two ranks.parquet as `evaluate` writes them.

    Whole groups are drawn, the same for both (`recall.paired_intervals`). The order of the rows does not matter.
    Raises UserError when a file is missing, or when the two do not hold the same queries.
    """
    from tuwen.retrieval.metrics import compute_hits, compute_paired_intervals

    before, after = (_by_query(path) for path in (base, head))
    if not before.select(ASKED).equals(after.select(ASKED)):
        raise UserError(
            f"{head}: other queries, groups or truths ({after.num_rows} rows) than in {base} "
            f"({before.num_rows} rows); evaluate both on the same test split"
        )
    made = []
    for direction in DIRECTIONS:
        first, second = (table.filter(pc.equal(table["direction"], direction)) for table in (before, after))
        if not first.num_rows:
            raise UserError(f"{base}: no query of {direction}; evaluate both directions: `dvc repro evaluate`")
        ranks = (table["best_rank"].to_numpy() for table in (first, second))
        old, new = (compute_hits(best, params.ks) for best in ranks)
        groups = first["group"].to_numpy()
        ends = 100 * compute_paired_intervals(old, new, groups, params.bootstrap_samples, params.seed)
        for k, was, now, (low, high) in zip(
            params.ks, 100 * old.mean(axis=0), 100 * new.mean(axis=0), ends.tolist(), strict=True
        ):
            difference = Percent(float(now - was), low, high)
            made.append(Change(direction, k, len(old), float(was), float(now), difference))
    return made


def _by_query(path: Path) -> pa.Table:
    table = pairs.read_table(path)
    if missing := [name for name in (*ASKED, "best_rank") if name not in table.schema.names]:
        raise UserError(f"{path}: no column {missing[0]!r}; make the file anew: `dvc repro evaluate`")
    return table.sort_by([(name, "ascending") for name in ASKED]).combine_chunks()


def require_same_test(base: Path, head: Path) -> None:
    """Raise UserError unless the test sets in two folders hold the same pictures, texts and true pairs.

    Only `images.parquet`, `texts.parquet` and `pairs.parquet` are read; a picture counts as its bytes.
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
    """Why the head is worse, a sentence for each reason; empty where it is not. hit@5 of each direction decides.

    max_drop_points: a drop beyond this is too much whatever its interval (params.yaml: gate.max_drop_points).
    """
    found = []
    for change in changes:
        if change.k != HEADLINE_K:
            continue
        name, (value, _, high) = f"{DIRECTIONS[change.direction]} R@{change.k}", change.points
        if high < 0:
            found.append(f"{name} fell by {-value:.1f} points: even the upper end of its interval is {high:+.1f}.")
        if -value > max_drop_points + 1e-9:  # a drop of just the limit is allowed, rounding must not forbid it
            found.append(f"{name} fell by {-value:.1f} points; gate.max_drop_points allows {max_drop_points:g}.")
    return found


def format_changes(changes: Sequence[Change]) -> str:
    """The table of a comparison: hit@k in percent, base beside head, the difference in points."""
    lines = ["| direction | queries | | base | head | head − base, points |", "|---|---|---|---|---|---|"]
    for way, k, queries, base, head, points in changes:
        strong = "**" if k == HEADLINE_K else ""
        difference = f"{strong}{points.value:+.1f}{strong} [{points.low:+.1f}, {points.high:+.1f}]"
        lines.append(f"| {DIRECTIONS[way]} | {queries} | R@{k} | {base:.1f} | {head:.1f} | {difference} |")
    return "\n".join(lines)
