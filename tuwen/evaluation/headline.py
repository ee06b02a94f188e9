"""What a reader looks for first: R@k of both models with intervals, corrected scores, R@M, median rank."""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.errors import UserError
from tuwen.core.params import Evaluate
from tuwen.data.formats import pairs
from tuwen.data.formats.json_file import read_json
from tuwen.retrieval.metrics import compute_hits, compute_paired_intervals

MODELS = {"baseline": "baseline", "finetuned": "fine-tuned"}
DIRECTIONS = {"t2i": "text → image", "i2t": "image → text"}
WITH_INTERVAL = ("{0}_hit_at_{1}", "{0}_qbnorm_hit_at_{1}", "{0}_qbnorm_gain_at_{1}")  # figures at each k
ENDS = ("", "_low", "_high")
ONCE = ("{0}_queries", "{0}_median_rank", "{0}_hub_skewness", "{0}_qbnorm_hub_skewness")

Metrics = dict[str, dict[str, float]]  # model -> flat name -> figure on the test split


class Percent(NamedTuple):
    """A figure and its 95 % interval, in percent or percentage points."""

    value: float
    low: float
    high: float


class Line(NamedTuple):
    """One line of the headline: hit@k of both models, what lies between, and what corrected scores change."""

    direction: str
    k: int
    models: dict[str, Percent]
    gain: Percent
    corrected: dict[str, Percent]
    change: dict[str, Percent]  # corrected less uncorrected


def read_metrics(results: Path, ks: list[int]) -> Metrics:
    """The test figures of both models. Raises UserError when they were measured at other ks or by older code."""
    found: Metrics = {}
    for model in MODELS:
        path = results / model / "metrics.json"
        found[model] = figures = read_test_metrics(path)
        for k in ks:
            if f"t2i_hit_at_{k}" not in figures:
                raise UserError(f"{path}: no figures at k = {k} (params.yaml: evaluate.ks); run `dvc repro`")
        every = ("{0}_recall_at_{1}", *(name + end for name in WITH_INTERVAL for end in ENDS))
        names = [name.format(way, k) for way in DIRECTIONS for k in ks for name in every]
        names += ["images", "texts", *("mean_recall" + end for end in ENDS)]
        names += [name.format(way) for way in DIRECTIONS for name in ONCE]
        if missing := [name for name in names if name not in figures]:
            raise UserError(f"{path}: test lacks {missing[0]}; remove the file and run `dvc repro`")
    return found


def read_test_metrics(path: Path) -> dict[str, float]:
    """The test figures of one metrics.json."""
    figures = read_json(path).get("test")
    if not isinstance(figures, dict):
        raise UserError(f"{path}: no figures of the test split; remove the file and run `dvc repro`")
    return figures


def read_ranks(results: Path) -> dict[str, pa.Table]:
    """Model -> its ranks table; both must hold the same queries."""
    tables = {model: pairs.read_table(results / model / "ranks.parquet") for model in MODELS}
    first, second = (table.select(["direction", "query_id", "group"]) for table in tables.values())
    if not first.equals(second):
        raise UserError(
            f"{results}: ranks.parquet of {' and '.join(MODELS)} hold different queries; "
            "measure both on the same test split: `dvc repro`"
        )
    return tables


def make_lines(figures: Metrics, ranked: dict[str, pa.Table], evaluate: Evaluate) -> list[Line]:
    """A line for each direction and k; the gain's interval is paired, both models answer the same queries."""
    made = []
    for direction in DIRECTIONS:
        asked = [table.filter(pc.equal(table["direction"], direction)) for table in ranked.values()]
        first, second = (compute_hits(table["best_rank"].to_numpy(), evaluate.ks) for table in asked)
        groups = asked[0]["group"].to_numpy()
        gains = compute_paired_intervals(first, second, groups, evaluate.bootstrap_samples, evaluate.seed)
        for k, gain in zip(evaluate.ks, 100 * gains, strict=True):
            plain, corrected, change = (
                {model: percent(figures[model], name.format(direction, k)) for model in MODELS}
                for name in WITH_INTERVAL
            )
            difference = plain["finetuned"].value - plain["baseline"].value
            made.append(Line(direction, k, plain, Percent(difference, *gain.tolist()), corrected, change))
    return made


def percent(figures: dict[str, float], name: str) -> Percent:
    """The figure of this name with its interval."""
    return Percent(*(100 * figures[name + end] for end in ENDS))
