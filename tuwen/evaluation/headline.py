"""Values of all ranked models beside each other, with what lies between them and the first."""

import re
from typing import Any, NamedTuple

from tuwen.core.params import Evaluate
from tuwen.data.formats.directions import DIRECTIONS, Direction
from tuwen.evaluation.figures import ENDS, FIGURES, MetricValues
from tuwen.evaluation.metric import Estimate, Metric, OfQueries
from tuwen.evaluation.models import MODELS, get_base, list_rivals
from tuwen.evaluation.results import Results
from tuwen.retrieval.metrics import compute_paired_intervals

TITLE_COLUMNS = 42  # on a terminal


class Line(NamedTuple):
    """One metric of one direction at one k; a model that lacks it is not there."""

    metric: Metric
    direction: Direction | None  # None: of the whole set
    k: int | None
    title: str  # of the metric at this k
    models: dict[str, Estimate]
    gains: dict[str, Estimate]  # of each model but the first, over it


def make_lines(results: Results, metric: Metric, params: Evaluate) -> list[Line]:
    """Return a line for each direction and k of a metric; gains are paired, all models answer the same queries."""
    gains = {model.name: _compute_gain_ends(results, metric, model.name, params) for model in list_rivals()}
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
            )
        )
    return lines


def make_further_lines(results: Results, params: Evaluate) -> list[Line]:
    """Return the lines of all metrics that have no other place in the reports."""
    metrics = (metric for metric in FIGURES.values() if metric.in_table)
    return [line for metric in metrics for line in make_lines(results, metric, params) if line.models]


def tabulate_line(line: Line) -> list[str]:
    """Return cells: direction, metric, each model, each gain; empty where a model lacks the metric."""
    gains = (line.gains.get(model.name) for model in list_rivals())
    return [
        line.direction.title if line.direction else "both",
        line.title,
        *tabulate_models(line, line.metric.unit.symbol),
        *("" if gain is None else format_gain(gain, line.metric) for gain in gains),
    ]


def tabulate_models(line: Line, symbol: str = "") -> list[str]:
    """Return a cell for each model, empty where it lacks the metric."""
    return [
        format_estimate(line.models[name], line.metric, symbol) if name in line.models else "" for name in MODELS
    ]


def get_estimate(values: MetricValues, metric: Metric, name: str) -> Estimate:
    """Return the value of this name in metrics.json, with its interval where it has one, in the metric's unit."""
    ends = ENDS if metric.has_interval else ENDS[:1]
    return Estimate(*(metric.unit.scale * values[name + end] for end in ends))


def _compute_gain_ends(
    results: Results, metric: Metric, model: str, params: Evaluate
) -> dict[str, tuple[float, float]]:
    """Return name -> the ends of the gain's paired interval, of metrics whose values per query the ranks give."""
    source = metric.source
    if not isinstance(source, OfQueries) or source.ranking != "plain" or not metric.has_interval:
        return {}
    ends: dict[str, tuple[float, float]] = {}
    for direction in DIRECTIONS.values():
        names = [name for name, way, _ in metric.list_values(params.ks) if way == direction]
        base, own = (results[name].ranks[direction.name] for name in (get_base().name, model))
        first, second = (source.compute(ranked.judged, params.ks) for ranked in (base, own))
        intervals = compute_paired_intervals(first, second, base.groups, params.bootstrap_samples, params.seed)
        for name, (low, high) in zip(names, (metric.unit.scale * intervals).tolist(), strict=True):
            ends[name] = low, high
    return ends


def format_estimate(estimate: Estimate, metric: Metric, symbol: str = "") -> str:
    """Return a value as people read it, followed by its interval in brackets."""
    return f"{estimate.value:{metric.unit.form}}{symbol} {format_interval(estimate, metric.unit.form)}".rstrip()


def format_gain(gain: Estimate, metric: Metric, strong: str = "") -> str:
    """Return a difference with its sign; strong: what it is put between, such as **."""
    form = f"+{metric.unit.form}"
    return f"{strong}{gain.value:{form}}{strong} {format_interval(gain, form)}".rstrip()


def format_interval(estimate: Estimate, form: str) -> str:
    """Return the interval in brackets; empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{estimate.low:{form}}, {estimate.high:{form}}]"


def format_figures(measured: dict[str, Any]) -> str:
    """Format what `external.evaluate_arrays` returns for a terminal: every metric, then the gallery curves."""
    values = measured["figures"]
    ks = sorted(int(found[1]) for name in values if (found := re.fullmatch(r"t2i_hit_at_(\d+)", name)))
    lines = [f"{'R@k is hit@k; shares in %':<{TITLE_COLUMNS}}{'':>7}  95 % interval"]
    for direction in (*DIRECTIONS.values(), None):
        for metric in FIGURES.values():
            for name, way, k in metric.list_values(ks):
                if way == direction and name in values:
                    title = f"{way.title}  {metric.make_title(k)}" if way else metric.make_title(k)
                    estimate, form = get_estimate(values, metric, name), metric.unit.form
                    line = f"{title:<{TITLE_COLUMNS}}{f'{estimate.value:{form}}':>7}"
                    lines.append(f"{line}  {format_interval(estimate, form)}".rstrip())
    for direction in DIRECTIONS.values():
        title = f"{direction.title}  in a gallery of"
        lines += ["", f"{title:<{TITLE_COLUMNS}}" + "".join(f"{f'R@{k}':>8}" for k in ks)]
        lines += [
            f"{point['gallery']:>{TITLE_COLUMNS}}" + "".join(f"{100 * point[f'hit_at_{k}']:>8.1f}" for k in ks)
            for point in measured["gallery_curve"][direction.name]
        ]
    return "\n".join(lines)
