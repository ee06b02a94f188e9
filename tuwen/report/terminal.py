"""`tuwen results`: R@k of all models beside each other for a terminal, with chance, and which gains are none."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuwen.core.errors import UserError
from tuwen.core.params import Evaluate
from tuwen.evaluation.figures import FIGURES, MetricValues
from tuwen.evaluation.headline import get_chance, make_lines
from tuwen.evaluation.metric import Metric, format_number
from tuwen.evaluation.models import MODELS, SHIPPED, get_base, list_gain_titles, list_rivals, list_titles
from tuwen.evaluation.results import Results, list_measured, read_results, read_test_metrics
from tuwen.evaluation.seen.captions import describe_seen
from tuwen.evaluation.verdicts import judge_line
from tuwen.report.reranking import find_reordering, list_changes

GAINS_UNKNOWN = "Which gains are sure stands in results/report.md: {why}"

Doubts = Mapping[tuple[str, int | None], str]  # direction and k -> what is wrong with the shipped model's value


def format_headline(results: Path, params: Evaluate | None) -> str:
    """Return R@k on test in both directions, all models beside each other, as plain text for a terminal.

    Where captions of test stand in train, it is R@k of the others, and a line says so. A line whose gain is not
    sure, or whose value is at chance, says so. params: those by which the intervals are drawn; without them, or
    without all results, a last line says that they stand in the report.
    """
    metrics = {name: read_test_metrics(results / name / "metrics.json") for name in list_measured(results)}
    base = get_base().name
    ks = [int(found[1]) for name in metrics[base] if (found := re.fullmatch(r"t2i_hit_at_(\d+)", name))]
    apart = all(
        name in values for name, *_ in FIGURES["unseen_hit"].list_values(ks) for values in metrics.values()
    )
    hit = FIGURES["unseen_hit" if apart else "hit"]
    measured, why = _read_all(results, params)
    doubts = _find_doubts(measured, params, hit) if params and measured else {}
    has_chance = get_chance(metrics[base], hit, None, None, ks) is not None  # metrics.json of older code has none
    titles = (*(["chance"] if has_chance else []), *list_titles(metrics), *list_gain_titles(metrics))
    lines = [f"{'test split':<14}{'':<6}{''.join(f'{title:>{len(title) + 2}}' for title in titles)}"]
    for name, direction, k in hit.list_values(ks):
        assert direction
        hits = {model: 100 * values[name] for model, values in metrics.items()}
        chance = get_chance(metrics[base], hit, direction, k, ks)
        cells = [] if chance is None else [f"{chance:>6.1f} %"]
        cells += [
            f"{hits[name]:>{len(title)}.1f} %" for name, title in zip(metrics, list_titles(metrics), strict=True)
        ]
        cells += [
            format_number(hits[rival.name] - hits[base], f">+{len(title) + 2}.1f")
            for rival, title in zip(list_rivals(metrics), list_gain_titles(metrics), strict=True)
        ]
        line = f"{direction.title:<14}{f'R@{k}':<6}{''.join(cells)}"
        lines.append(f"{line}  {doubts.get((direction.name, k), '')}".rstrip())
    notes = [
        GAINS_UNKNOWN.format(why=why) if why else "",
        _describe_overlap(metrics[SHIPPED], ks) if apart else "",
        *(_describe_reordering(measured, params) if params and measured else []),
    ]
    return "\n".join([*lines, *filter(None, notes)]) + "\n"


def _describe_overlap(values: MetricValues, ks: Sequence[int]) -> str:
    """Return what the table leaves out, and the shipped model's recall with it."""
    shown = {
        f"{way.title} R@{k}": values[name] for name, way, k in FIGURES["hit"].list_values(ks) if way and k == 5
    }
    told = ", ".join(f"{title} {100 * value:.1f} %" for title, value in shown.items())
    return f"{describe_seen(values)}\nWith all of them ({MODELS[SHIPPED].title}): {told}"


def _read_all(results: Path, params: Evaluate | None) -> tuple[Results, str]:
    """Return the results of all models; else nothing, and why no interval can be told."""
    if params is None:
        return {}, "params.yaml, which the intervals are drawn by, is not here"
    try:
        return read_results(results, params.ks), ""
    except UserError as error:
        return {}, str(error)


def _describe_reordering(measured: Results, params: Evaluate) -> list[str]:
    """Return a line for each direction: what re-ranking changes in the mean over all k."""
    name = find_reordering(measured)
    changes = list_changes(measured, name, params) if name else []
    return [
        f"{one.direction}, {one.title}: re-ranking changes {one.before} to {one.after}, by {one.change} points"
        f"{'' if one.is_sure else ', no sure gain'}"
        for one in changes
        if one.title == FIGURES["mean_of_direction"].title
    ]


def _find_doubts(measured: Results, params: Evaluate, hit: Metric) -> Doubts:
    """Return what to say of lines without a sure gain or at chance."""
    lines = make_lines(measured, hit, params)
    doubts = {}
    for line in lines:
        assert line.direction
        verdict = judge_line(line)
        told = ([] if verdict.above_chance else [verdict.level]) + ([] if verdict.is_gain else [verdict.gain])
        doubts[line.direction.name, line.k] = "; ".join(told)
    return doubts
