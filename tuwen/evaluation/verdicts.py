"""What a headline may claim, in words: recall beside that of a ranking at random, and whether a gain is sure."""

from typing import NamedTuple

from tuwen.evaluation.headline import Line
from tuwen.evaluation.metric import Estimate, Unit, format_number
from tuwen.evaluation.models import SHIPPED, get_base


class Verdict(NamedTuple):
    """What may be said of the shipped model's value of a line."""

    above_chance: bool  # the whole interval is, or the metric knows no chance
    is_gain: bool  # over the first model: its whole interval lies above 0
    level: str  # where chance stands; empty for a metric without it
    gain: str  # in points

    @property
    def doubt(self) -> str:
        """What a headline says in place of the value; empty where it is above chance and a gain."""
        if not self.above_chance:
            return self.level.partition(",")[0]
        return "" if self.is_gain else self.gain.partition(":")[0]


def judge_line(line: Line) -> Verdict:
    """Return what may be said of the shipped model's value and of its gain over the first."""
    own, gain, unit = line.models[SHIPPED], line.gains[SHIPPED], line.metric.unit
    above = line.chance is None or _find_side(own, line.chance) > 0
    level = describe_level(own, line.chance, unit)
    return Verdict(above, is_sure_gain(gain), level, describe_gain(gain, unit))


def describe_level(own: Estimate, chance: float | None, unit: Unit) -> str:
    """Return where a value stands to chance, "chance is 3.6 %" where its interval lies above; empty without it."""
    if chance is None:
        return ""
    shown = f"{chance:{unit.form}}{unit.symbol}"
    return (f"below chance, {shown}", f"at chance, {shown}", f"chance is {shown}")[_find_side(own, chance) + 1]


def describe_gain(gain: Estimate, unit: Unit) -> str:
    """Return a difference in words: only one whose interval leaves 0 out is a gain, or a loss."""
    if gain.low is None or gain.high is None:
        return f"no interval, so no sure gain: {_sign(gain.value, unit)} points"
    low, high = _sign(gain.low, unit), _sign(gain.high, unit)
    if is_sure_gain(gain):
        return f"{_sign(gain.value, unit)} points [{low}, {high}]"
    return f"{'a sure loss' if _find_side(gain, 0) else 'no sure gain'}: {low} to {high} points"


def format_verdict(line: Line) -> str:
    """Return a line of text: the shipped model's value, where chance stands, and what the first model's lacks."""
    verdict, unit = judge_line(line), line.metric.unit
    value = f"{line.models[SHIPPED].value:{unit.form}}{unit.symbol}"
    told = "; ".join(filter(None, (verdict.level, f"over the {get_base().title} {verdict.gain}")))
    where = line.direction.title if line.direction else "both directions"
    return f"{where}, {line.title}: {value} ({told})"


def is_sure_gain(gain: Estimate) -> bool:
    """Tell whether the whole interval of a difference lies above 0."""
    return _find_side(gain, 0) > 0


def _find_side(estimate: Estimate, mark: float) -> int:
    """Return 1 where the whole interval lies above `mark`, -1 where it lies below, else 0; 0 without one."""
    if estimate.low is None or estimate.high is None:
        return 0
    return (estimate.low > mark) - (estimate.high < mark)


def _sign(value: float, unit: Unit) -> str:
    return format_number(value, f"+{unit.form}")
