"""What both reports say of a re-ranker: its gain over the model before it, and hit@k by how many it reads."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tuwen.core.params import Evaluate
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.evaluation.details import Reranking
from tuwen.evaluation.figures import FIGURES
from tuwen.evaluation.headline import format_estimate, format_gain, get_estimate
from tuwen.evaluation.metric import format_number
from tuwen.evaluation.models import MODELS, find_before
from tuwen.evaluation.results import Results
from tuwen.evaluation.verdicts import is_sure_gain
from tuwen.report import curves
from tuwen.report.tables import format_table

DIRECTION_METRICS = (("hit", "rerank_gain"), ("mean_of_direction", "rerank_gain_mean"))  # value, and its change


class RerankingSection(NamedTuple):
    """The section, for both reports."""

    name: str  # in MODELS
    before: str  # title of the model that it began from
    after: str
    rows: list[tuple[str, ...]]  # direction, metric, before, after, change
    sure: list[bool]  # of each row, whether its change is a gain beyond doubt
    chosen: list[str]  # a sentence for each direction
    matching: str  # empty where no pair is known not to fit
    depths: list[tuple[str, ...]]  # direction, depth, hit@k of each k
    curves: dict[str, str]  # direction -> SVG


def collect_reranking(measured: Results, params: Evaluate) -> RerankingSection | None:
    """Return the section of the re-ranked model; None where there is none."""
    name = find_reordering(measured)
    described = measured[name].details.reranking if name else None
    if name is None or described is None:
        return None
    changes = list_changes(measured, name, params)
    points = {direction: described[direction].curve for direction in DIRECTIONS}
    return RerankingSection(
        name=name,
        before=find_before(name).title,
        after=MODELS[name].title,
        rows=[change[:-1] for change in changes],
        sure=[change.is_sure for change in changes],
        chosen=[describe_choice(direction, described[direction]) for direction in DIRECTIONS],
        matching=_describe_matching(measured, name),
        depths=[
            (
                DIRECTIONS[direction].title,
                f"{point['k']:.0f}",
                *(f"{100 * point[f'hit_at_{k}']:.1f}" for k in params.ks),
            )
            for direction, curve in points.items()
            for point in curve
        ],
        curves={
            direction: curves.draw_depth_curve(f"depth_{direction}", name, curve, params.ks)
            for direction, curve in points.items()
        },
    )


def find_reordering(measured: Results) -> str | None:
    """Return the name of the measured model that reorders what another finds; None where there is none."""
    return next((name for name in measured if MODELS[name].reorders), None)


class ChangeRow(NamedTuple):
    """One value before and after, each with its interval, and the change with its paired one."""

    direction: str
    title: str
    before: str
    after: str
    change: str
    is_sure: bool


def list_changes(measured: Results, name: str, params: Evaluate) -> list[ChangeRow]:
    """Return R@k and R@M of both directions before and after the model of this name reorders."""
    own, before = measured[name].metrics, measured[find_before(name).name].metrics
    rows = []
    for direction in DIRECTIONS.values():
        for key, change_key in DIRECTION_METRICS:
            metric, change = FIGURES[key], FIGURES[change_key]
            for (value, way, k), (gain, *_) in zip(
                metric.list_values(params.ks), change.list_values(params.ks), strict=True
            ):
                if way != direction:
                    continue
                points = get_estimate(own, change, gain)
                rows.append(
                    ChangeRow(
                        direction.title,
                        metric.make_title(k),
                        format_estimate(get_estimate(before, metric, value), metric),
                        format_estimate(get_estimate(own, metric, value), metric),
                        format_gain(points, change),
                        is_sure_gain(points),
                    )
                )
    return rows


def describe_answering(measured: Results, wanted: bool | str) -> str:
    """Return what the re-ranked column is, and which of the tasks' answers are re-ranked; empty without one.

    wanted: params.yaml's predict.rerank.
    """
    name = find_reordering(measured)
    described = measured[name].details.reranking if name else None
    if name is None or described is None:
        return ""
    column = f" The column {MODELS[name].title} has a dual encoder's first answers in a cross encoder's order."
    if not wanted:
        return column
    ways = [name for name in DIRECTIONS if wanted is True or described[name].sure_on_valid]
    titles = " and ".join(DIRECTIONS[name].title for name in ways) or "in no direction"
    why = "" if wanted is True else ", where valid is sure of the gain"
    return f"{column} The tasks' answers are re-ranked{why}: {titles}."


def describe_choice(direction: str, chosen: Reranking) -> str:
    """Return a sentence that says how the first answers of a direction are ordered."""
    if chosen.k == 1:
        return f"{DIRECTIONS[direction].title}: the order of the cosine stands, since none was better on valid."
    score = "the probability of a match" + (f" + {chosen.weight:g} × cosine" if chosen.weight else "")
    return f"{DIRECTIONS[direction].title}: the first {chosen.k} are read, and the score is {score}."


def _describe_matching(measured: Results, name: str) -> str:
    """Return how well pairs that do not fit are told, by the cosine and by the re-ranker."""
    told: list[str] = []
    for model, key, title in ((find_before(name).name, "auc", "cosine"), (name, "match_auc", "match")):
        metric, values = FIGURES[key], measured[model].metrics
        if key not in values:
            return ""
        estimate = get_estimate(values, metric, key)
        told.append(f"{format_estimate(estimate, metric, metric.unit.symbol)} by the {title}")
    count = measured[name].metrics["unfit_pairs"]
    pairs = f"{format_number(count, ',.0f')} pairs known not to fit"
    return f"Area under the ROC curve, true pairs against {pairs}: {', '.join(told)}."


def list_depth_columns(ks: Sequence[int]) -> tuple[str, ...]:
    """Return the header of the table of depths."""
    return ("direction", "first", *(f"R@{k}" for k in ks))


def format_reranking(facts: Mapping[str, Any]) -> list[str]:
    """Return the section of report.md from the facts that report.py collects; none without a re-ranker."""
    section = facts["reranking"]
    if section is None:
        return []
    rows = [
        (*told, f"**{change}**" if is_sure else change)
        for (*told, change), is_sure in zip(section.rows, section.sure, strict=True)
    ]
    return [
        "## Re-ranking: the first answers in a new order, in percent",
        "",
        *format_table(("direction", "", section.before, section.after, "change, points"), rows),
        "",
        f"Depth and weight are chosen on valid. {' '.join(section.chosen)}",
        *(["", section.matching] if section.matching else []),
        "",
        *format_table(facts["depth_columns"], section.depths),
        "",
        "By how many first answers are read; 1 is the order of the cosine.",
    ]
