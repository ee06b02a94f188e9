"""What both reports say of the probability that a first answer is right: whether what was said came true."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.json_file import read_json
from tuwen.evaluation.details import Calibrated, Reliability
from tuwen.evaluation.models import MODELS
from tuwen.evaluation.results import Results
from tuwen.report import curves
from tuwen.report.tables import format_table

RELIABILITY_COLUMNS = ("direction", "model", "queries", "first right, %", "Brier", "by the share", "ECE, points")
RELIABILITY_NOTE = (
    "The curve from the score of a first answer to the probability that it is right (Platt's) is fitted on valid "
    "and judged here, on test. Brier: the mean square of what was said less what came true, the lower the better; "
    "beside it what always saying the share of right answers would get. ECE: how far both lie apart, over bins of "
    "equally many queries. Odds are divided by how much larger test's gallery is than valid's, since each item "
    "more may score higher by chance. 'In the index' is what a search says: test asks all that the index holds, "
    "where an answer with one of the query's own captions is right too, and how the odds fall was measured there."
)
IN_INDEX = "in the index"


class ReliabilitySection(NamedTuple):
    """The section, for both reports."""

    rows: list[tuple[str, ...]]  # by RELIABILITY_COLUMNS
    curves: dict[str, str]  # direction -> SVG


def collect_reliability(measured: Results, index: Path) -> ReliabilitySection | None:
    """Return the section; None where no model was measured so.

    index: its reliability.json, by direction what a search says against what comes true; {} without test in it.
    """
    by_direction = {name: _list_calibrated(measured, name) for name in DIRECTIONS}
    if not all(by_direction.values()):
        return None
    return ReliabilitySection(
        rows=[
            (DIRECTIONS[name].title, MODELS[model].title, *_format_values(one))
            for name, models in by_direction.items()
            for model, one in models.items()
        ]
        + _list_served(index),
        curves={
            name: curves.draw_reliability(f"reliability_{name}", {model: one.bins for model, one in own.items()})
            for name, own in by_direction.items()
        },
    )


def _list_calibrated(measured: Results, direction: str) -> dict[str, Calibrated]:
    """Return model -> how well its probability holds, in the order in which it answers."""
    found = {}
    for model, own in measured.items():
        if own.details.calibration:
            orders = own.details.calibration[direction]
            found[model] = orders.reranked or orders.cosine
    return found


def _list_served(index: Path) -> list[tuple[str, ...]]:
    served = read_json(index, "run `dvc repro index`")
    return [
        (DIRECTIONS[name].title, IN_INDEX, *_format_values(Reliability.model_validate(one)))
        for name, one in served.items()
    ]


def _format_values(one: Reliability) -> tuple[str, ...]:
    shares = (f"{100 * one.right:.1f}", f"{one.brier:.3f}", f"{one.right * (1 - one.right):.3f}")
    return (str(one.queries), *shares, f"{100 * one.ece:.1f}")


def format_reliability(facts: Mapping[str, Any]) -> list[str]:
    """Return the section of report.md from the facts that report.py collects; none of older results."""
    section = facts["reliability"]
    if section is None:
        return []
    return [
        "## Is the first answer right: what the probability is worth",
        "",
        *format_table(RELIABILITY_COLUMNS, section.rows),
        "",
        RELIABILITY_NOTE,
    ]
