"""FIGURES, the table of metrics, and their values on one set: metrics.json.

A row more is measured, logged to MLflow, shown in both reports, on a run page and by `tuwen evaluate`, and where
`in_gate` says so by the gate; docs/architecture.md tells what that takes.
Shapes: N queries with a true item, K ks, M columns of values, S samples of the bootstrap.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tuwen.core.params import Evaluate
from tuwen.data.formats.directions import DIRECTIONS, Direction
from tuwen.evaluation.answers import Answers
from tuwen.evaluation.embedded_set import EmbeddedSet
from tuwen.evaluation.hubness import compute_corrected_hub_skewness, compute_hub_skewness
from tuwen.evaluation.metric import (
    DECIMAL,
    PERCENT,
    RANK,
    WHOLE_NUMBER,
    MeanOverKs,
    Metric,
    OfAnswers,
    OfGallery,
    OfQueries,
    OfSet,
)
from tuwen.evaluation.reranked.matching import count_unfit_pairs, measure_auc
from tuwen.evaluation.reranked.rows import RERANKED_FIGURES
from tuwen.evaluation.seen.rows import make_seen_figures
from tuwen.retrieval import metrics
from tuwen.retrieval.intervals import resampling
from tuwen.retrieval.intervals.exact import extend_by_mean, measure_spread, replace_ends
from tuwen.retrieval.vectors import Floats

MetricValues = dict[str, float]  # name in metrics.json -> value


class Figures(NamedTuple):
    """What was measured of a set."""

    values: MetricValues
    exact: list[str]  # those whose interval is exact, as the bootstrap saw too little (intervals/exact.py)


DIGITS = 6  # that are kept
ENDS = ("", "_low", "_high")


FIGURES = {
    "hit": Metric(
        name="{direction}_hit_at_{k}",
        title="R@{k}",
        unit=PERCENT,
        source=OfQueries(metrics.compute_hits),
        has_interval=True,
        in_gate=True,
        chance="chance",
        in_table=False,
    ),
    "chance": Metric(
        name="{direction}_chance_at_{k}",
        title="R@{k} by chance",
        unit=PERCENT,
        source=OfGallery(metrics.compute_chances),
        in_table=False,
    ),
    "qbnorm_hit": Metric(
        name="{direction}_qbnorm_hit_at_{k}",
        title="R@{k}, QB-Norm",
        unit=PERCENT,
        source=OfQueries(metrics.compute_hits, "corrected"),
        has_interval=True,
        needs_bank=True,
        chance="chance",
        in_table=False,
    ),
    "qbnorm_gain": Metric(
        name="{direction}_qbnorm_gain_at_{k}",
        title="R@{k}, change by QB-Norm",
        unit=PERCENT,
        source=OfQueries(metrics.compute_hits, "gain"),
        has_interval=True,
        needs_bank=True,
        in_table=False,
    ),
    # R@M as cn_clip prints it
    "mean_of_direction": Metric(
        name="{direction}_mean_recall",
        title="R@M, the mean of all R@k",
        unit=PERCENT,
        source=MeanOverKs("hit"),
        has_interval=True,
        in_table=False,
    ),
    "mean": Metric(
        name="mean_recall",
        title="R@M, the mean of all R@k",
        unit=PERCENT,
        source=MeanOverKs("hit"),
        has_interval=True,
        in_table=False,
    ),
    "queries": Metric(
        name="{direction}_queries",
        title="queries",
        unit=WHOLE_NUMBER,
        source=OfAnswers(lambda answers: len(answers.judged.query)),
        in_table=False,
    ),
    "median_rank": Metric(
        name="{direction}_median_rank",
        title="median rank",
        unit=RANK,
        source=OfAnswers(lambda answers: float(np.median(answers.judged.best_rank))),
        in_table=False,
    ),
    "hub_skewness": Metric(
        name="{direction}_hub_skewness",
        title="hubs, skewness",
        unit=DECIMAL,
        source=OfAnswers(compute_hub_skewness),
        in_table=False,
    ),
    "qbnorm_hub_skewness": Metric(
        name="{direction}_qbnorm_hub_skewness",
        title="hubs, skewness, QB-Norm",
        unit=DECIMAL,
        source=OfAnswers(compute_corrected_hub_skewness),
        needs_bank=True,
        in_table=False,
    ),
    "recall": Metric(
        name="{direction}_recall_at_{k}",
        title="recall@{k}",
        unit=PERCENT,
        source=OfQueries(metrics.compute_recalls),
        in_table=False,
    ),
    "unfit_pairs": Metric(
        name="unfit_pairs",
        title="unfitting pairs",
        unit=WHOLE_NUMBER,
        source=OfSet(count_unfit_pairs),
        in_table=False,
    ),
    "auc": Metric(
        name="auc", title="AUC", unit=PERCENT, source=OfSet(measure_auc), has_interval=True, in_table=False
    ),
}
FIGURES |= make_seen_figures(FIGURES) | RERANKED_FIGURES


def measure_figures(embedded: EmbeddedSet, answers: Mapping[str, Answers], params: Evaluate) -> Figures:
    """Measure every metric of FIGURES that applies to the set: those without an interval come first."""
    values: MetricValues = {}
    for direction in DIRECTIONS.values():
        values |= _measure_direction(direction, answers[direction.name], params.ks)
    drawn, exact = _measure_intervals(answers, params)
    values |= drawn
    for metric in FIGURES.values():
        if isinstance(metric.source, OfSet) and (estimate := metric.source.compute(embedded, params)):
            ends = zip(ENDS, estimate, strict=True)
            values |= {metric.name + end: value for end, value in ends if value is not None}
    return Figures({name: round(value, DIGITS) for name, value in values.items()}, exact)


def _measure_direction(direction: Direction, answers: Answers, ks: Sequence[int]) -> MetricValues:
    """Measure what has no interval."""
    values: MetricValues = {}
    for metric in FIGURES.values():
        names = [name for name, own, _ in metric.list_values(ks) if own == direction]
        if isinstance(metric.source, OfAnswers):
            value = metric.source.compute(answers)
            values |= {name: value for name in names if value is not None}
        elif isinstance(metric.source, OfQueries | OfGallery) and not metric.has_interval:
            each_NK = metric.source.compute_each(answers, ks)
            if each_NK is not None:
                values |= zip(names, np.nanmean(each_NK, axis=0).tolist(), strict=True)
    return values


def _measure_intervals(answers: Mapping[str, Answers], params: Evaluate) -> Figures:
    """Measure what has an interval, all by the same draws of both directions."""
    columns, least = _list_columns(answers, params.ks)
    values, names = np.stack(list(columns.values()), axis=1), list(columns)
    groups = np.concatenate([answers[name].groups for name in DIRECTIONS])
    spread = measure_spread(values, groups, np.array(least))
    drawn_SM = resampling.bootstrap(values, groups, params.bootstrap_samples, params.seed)
    for metric in FIGURES.values():
        if not isinstance(metric.source, MeanOverKs):
            continue
        of = FIGURES[metric.source.key].list_values(params.ks)
        for name, direction, _ in metric.list_values(params.ks):
            needed = [other for other, way, _ in of if direction is None or way == direction]
            if not set(needed) <= set(names):
                continue
            own = list(map(names.index, needed))
            drawn_SM = np.append(drawn_SM, drawn_SM[:, own].mean(axis=1, keepdims=True), axis=1)
            spread = extend_by_mean(spread, own)
            names.append(name)
    ends_M2, exact_M = replace_ends(resampling.compute_ends(drawn_SM), spread)
    ends = dict(zip(ENDS, (spread.up - spread.down, *ends_M2.T), strict=True))
    return Figures(
        {name + end: float(value_M[n]) for n, name in enumerate(names) for end, value_M in ends.items()},
        [name for name, is_exact in zip(names, exact_M.tolist(), strict=True) if is_exact],
    )


def _list_columns(answers: Mapping[str, Answers], ks: Sequence[int]) -> tuple[dict[str, Floats], list[float]]:
    """Return name -> the value of each query of both directions, NaN in the other direction's rows; its least."""
    sizes = [len(answers[name].judged.query) for name in DIRECTIONS]
    columns: dict[str, Floats] = {}
    least: list[float] = []
    for direction, end in zip(DIRECTIONS.values(), np.cumsum(sizes).tolist(), strict=True):
        own = answers[direction.name]
        rows = slice(end - len(own.judged.query), end)
        for metric in FIGURES.values():
            if not (isinstance(metric.source, OfQueries) and metric.has_interval):
                continue
            each_NK = metric.source.compute_each(own, ks)
            if each_NK is not None:
                names = [name for name, way, _ in metric.list_values(ks) if way == direction]
                for name, each_N in zip(names, each_NK.T, strict=True):
                    columns[name] = np.full(sum(sizes), np.nan)
                    columns[name][rows] = each_N
                    least.append(metric.source.least)
    return columns, least
