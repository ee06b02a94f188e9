"""Values of all ranked models beside each other, with what lies between them and the first."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tuwen.core.params import Evaluate
from tuwen.data.formats.directions import DIRECTIONS, Direction
from tuwen.evaluation.embedded_set import Groups
from tuwen.evaluation.figures import ENDS, FIGURES, MetricValues
from tuwen.evaluation.metric import Estimate, MeanOverKs, Metric, OfQueries, format_number, select_part
from tuwen.evaluation.models import get_base, list_rivals
from tuwen.evaluation.results import Results
from tuwen.retrieval.intervals.exact import extend_by_mean, measure_spread, replace_ends
from tuwen.retrieval.intervals.resampling import bootstrap, compute_ends, compute_intervals
from tuwen.retrieval.vectors import Floats

TITLE_COLUMNS = 42  # on a terminal


class Line(NamedTuple):
    """One metric of one direction at one k; a model that lacks it is not there."""

    metric: Metric
    direction: Direction | None  # None: of the whole set
    k: int | None
    title: str  # of the metric at this k
    models: dict[str, Estimate]
    gains: dict[str, Estimate]  # of each model but the first, over it
    chance: float | None = None  # what a ranking at random gets, in the metric's unit


def make_lines(results: Results, metric: Metric, params: Evaluate) -> list[Line]:
    """Return a line for each direction and k of a metric; gains are paired, all models answer the same queries."""
    gains = {model.name: _compute_gain_ends(results, metric, model.name, params) for model in list_rivals(results)}
    lines = []
    for name, direction, k in metric.list_values(params.ks):
        models = {
            model: get_estimate(own.metrics, metric, name) for model, own in results.items() if name in own.metrics
        }
        base = models.get(get_base().name)
        lines.append(
            Line(
                metric=metric,
                direction=direction,
                k=k,
                title=metric.make_title(k),
                models=models,
                gains={
                    model: Estimate(models[model].value - base.value, *ends.get(name, ()))
                    for model, ends in gains.items()
                    if base is not None and model in models
                },
                chance=get_chance(results[get_base().name].metrics, metric, direction, k, params.ks),
            )
        )
    return lines


def make_further_lines(results: Results, params: Evaluate) -> list[Line]:
    """Return the lines of all metrics that have no other place in the reports."""
    metrics = (metric for metric in FIGURES.values() if metric.in_table)
    return [line for metric in metrics for line in make_lines(results, metric, params) if line.models]


def choose_headline(every: Sequence[Line], unseen: Sequence[Line]) -> list[Line]:
    """Return the headline: of captions that are not in train, where all models have it, else of all of them."""
    return [
        apart if whole.models and apart.models.keys() == whole.models.keys() else whole
        for whole, apart in zip(every, unseen, strict=True)
    ]


def tabulate_line(line: Line, names: Iterable[str]) -> list[str]:
    """Return cells: direction, metric, each measured model, each gain; empty where a model lacks the metric."""
    columns = list(names)
    gains = (line.gains.get(model.name) for model in list_rivals(columns))
    return [
        line.direction.title if line.direction else "both",
        line.title,
        *tabulate_models(line, columns, line.metric.unit.symbol),
        *("" if gain is None else format_gain(gain, line.metric) for gain in gains),
    ]


def tabulate_models(line: Line, names: Iterable[str], symbol: str = "") -> list[str]:
    """Return a cell for each measured model, empty where it lacks the metric."""
    return [
        format_estimate(line.models[name], line.metric, symbol) if name in line.models else "" for name in names
    ]


def get_estimate(values: MetricValues, metric: Metric, name: str) -> Estimate:
    """Return the value of this name in metrics.json, with its interval where it has one, in the metric's unit."""
    ends = ENDS if metric.has_interval else ENDS[:1]
    return Estimate(*(metric.unit.scale * values[name + end] for end in ends))


def get_chance(
    values: MetricValues, metric: Metric, direction: Direction | None, k: int | None, ks: Sequence[int]
) -> float | None:
    """Return what a ranking at random gets in metrics.json, in the metric's unit; None where it has no such thing.

    direction, k: None where the metric is the mean over all of them.
    """
    of = FIGURES[metric.source.key] if isinstance(metric.source, MeanOverKs) else metric
    if of.chance is None:
        return None
    shares = [
        values.get(name)
        for name, way, own_k in FIGURES[of.chance].list_values(ks)
        if direction in (None, way) and k in (None, own_k)
    ]
    known = [share for share in shares if share is not None]  # metrics.json of older code has none
    return metric.unit.scale * sum(known) / len(known) if known else None


def _compute_gain_ends(
    results: Results, metric: Metric, model: str, params: Evaluate
) -> dict[str, tuple[float, float]]:
    """Return name -> the ends of the gain's paired interval, of metrics whose values per query the ranks give."""
    of = FIGURES[metric.source.key] if isinstance(metric.source, MeanOverKs) else metric
    source = of.source
    if not isinstance(source, OfQueries) or source.ranking != "plain" or not metric.has_interval:
        return {}
    differences: dict[str, tuple[Floats, Groups]] = {}
    for name in DIRECTIONS:
        base, own = (results[one].ranks[name] for one in (get_base().name, model))
        first, second = (source.compute(ranked.judged, params.ks) for ranked in (base, own))
        if (change := select_part(second - first, source.part, base.seen)) is not None:
            differences[name] = change, base.groups
    ends: dict[str, tuple[float, float]] = {}
    if isinstance(metric.source, MeanOverKs):
        for name, direction, _ in metric.list_values(params.ks):
            ways = [direction.name] if direction else list(DIRECTIONS)
            if not set(ways) <= differences.keys():
                continue
            found = _compute_mean_ends([differences[way] for way in ways], params)
            ends[name] = _scale(found, metric)
        return ends
    for way, (values, groups) in differences.items():
        names = [name for name, own, _ in metric.list_values(params.ks) if own == DIRECTIONS[way]]
        found_M2 = compute_intervals(values, groups, params.bootstrap_samples, params.seed, least=-1)
        ends |= {name: _scale(found, metric) for name, found in zip(names, found_M2, strict=True)}
    return ends


def _compute_mean_ends(parts: Sequence[tuple[Floats, Groups]], params: Evaluate) -> Floats:
    """Return the paired interval [2] of the mean over all ks of the parts, each of as much weight.

    parts: differences of the queries of a direction [N, K], and their groups [N].
    """
    groups = np.concatenate([own for _, own in parts])
    values = np.full((len(groups), len(parts)), np.nan)
    end = 0
    for column, (difference_NK, own) in enumerate(parts):
        values[end : end + len(own), column] = difference_NK.mean(axis=1)
        end += len(own)
    drawn = bootstrap(values, groups, params.bootstrap_samples, params.seed)
    spread = extend_by_mean(measure_spread(values, groups, np.full(len(parts), -1.0)), range(len(parts)))
    ends, _ = replace_ends(compute_ends(np.column_stack([drawn, drawn.mean(axis=1)])), spread)
    return np.asarray(ends[-1])


def _scale(ends: Floats, metric: Metric) -> tuple[float, float]:
    low, high = (metric.unit.scale * ends).tolist()
    return low, high


def format_estimate(estimate: Estimate, metric: Metric, symbol: str = "") -> str:
    """Return a value as people read it, followed by its interval in brackets."""
    form = metric.unit.form
    return f"{format_number(estimate.value, form)}{symbol} {format_interval(estimate, form)}".rstrip()


def format_gain(gain: Estimate, metric: Metric, strong: str = "") -> str:
    """Return a difference with its sign; strong: what it is put between, such as **."""
    form = f"+{metric.unit.form}"
    return f"{strong}{format_number(gain.value, form)}{strong} {format_interval(gain, form)}".rstrip()


def format_interval(estimate: Estimate, form: str) -> str:
    """Return the interval in brackets; empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{format_number(estimate.low, form)}, {format_number(estimate.high, form)}]"


def format_figures(measured: dict[str, Any]) -> str:
    """Format what `evaluate_arrays` returns for a terminal: every metric, then the gallery curves."""
    values = measured["figures"]
    ks = sorted(int(found[1]) for name in values if (found := re.fullmatch(r"t2i_hit_at_(\d+)", name)))
    lines = [_format_queries(DIRECTIONS[name], count) for name, count in measured["queries"].items()]
    lines += ["", f"{'R@k is hit@k; shares in %':<{TITLE_COLUMNS}}{'':>7}  95 % interval"]
    for direction in (*DIRECTIONS.values(), None):
        for metric in FIGURES.values():
            for name, way, k in metric.list_values(ks):
                if way == direction and name in values:
                    title = f"{way.title}  {metric.make_title(k)}" if way else metric.make_title(k)
                    estimate, form = get_estimate(values, metric, name), metric.unit.form
                    line = f"{title:<{TITLE_COLUMNS}}{format_number(estimate.value, form):>7}"
                    lines.append(f"{line}  {format_interval(estimate, form)}".rstrip())
    for direction in DIRECTIONS.values():
        title = f"{direction.title}  in a gallery of"
        lines += ["", f"{title:<{TITLE_COLUMNS}}" + "".join(f"{f'R@{k}':>8}" for k in ks)]
        lines += [
            f"{point['gallery']:>{TITLE_COLUMNS}}" + "".join(f"{100 * point[f'hit_at_{k}']:>8.1f}" for k in ks)
            for point in measured["gallery_curve"][direction.name]
        ]
    return "\n".join(lines)


def _format_queries(direction: Direction, count: dict[str, Any]) -> str:
    asked, unasked = count["asked"], count["without_truth"]
    if not unasked:
        return f"{direction.title}: all {asked} {direction.queries} are asked"
    such = ", ".join(map(repr, count["such_as"]))
    return (
        f"{direction.title}: {asked} of {asked + unasked} {direction.queries} are asked; {unasked} have no true "
        f"line in the relevance table, such as {such}: nothing here is about them"
    )
