"""A headline claims a gain only where its interval leaves no doubt, and says where recall is chance."""

import pytest

from tuwen.data.formats.directions import DIRECTIONS
from tuwen.evaluation.figures import FIGURES
from tuwen.evaluation.headline import Line
from tuwen.evaluation.metric import Estimate
from tuwen.evaluation.verdicts import format_verdict, judge_line


def line(own: Estimate, gain: Estimate, chance: float | None = 3.6) -> Line:
    models = {"baseline": Estimate(own.value - gain.value, 0.0, 9.9), "finetuned": own}
    return Line(FIGURES["hit"], DIRECTIONS["t2i"], 5, "R@5", models, {"finetuned": gain}, chance)


@pytest.mark.parametrize(
    ("own", "gain", "doubt", "said"),
    [
        (
            Estimate(45.9, 41.1, 50.9),
            Estimate(17.7, 13.0, 22.7),
            "",
            "45.9 % (chance is 3.6 %; over the baseline +17.7 points [+13.0, +22.7])",
        ),
        (
            Estimate(4.3, 1.4, 8.0),
            Estimate(2.1, -1.2, 5.1),
            "at chance",
            "4.3 % (at chance, 3.6 %; over the baseline no sure gain: −1.2 to +5.1 points)",
        ),
        (
            Estimate(40.0, 35.0, 45.0),
            Estimate(0.4, 0.0, 0.9),
            "no sure gain",
            "40.0 % (chance is 3.6 %; over the baseline no sure gain: +0.0 to +0.9 points)",
        ),
        (
            Estimate(40.0, 35.0, 45.0),
            Estimate(-4.0, -7.5, -0.5),
            "a sure loss",
            "40.0 % (chance is 3.6 %; over the baseline a sure loss: −7.5 to −0.5 points)",
        ),
        (
            Estimate(1.0, 0.2, 3.5),
            Estimate(0.9, 0.1, 3.0),
            "below chance",
            "1.0 % (below chance, 3.6 %; over the baseline +0.9 points [+0.1, +3.0])",
        ),
        (
            Estimate(40.0, 35.0, 45.0),
            Estimate(4.0),
            "no interval, so no sure gain",
            "40.0 % (chance is 3.6 %; over the baseline no interval, so no sure gain: +4.0 points)",
        ),
    ],
)
def test_what_may_be_claimed(own: Estimate, gain: Estimate, doubt: str, said: str) -> None:
    assert judge_line(line(own, gain)).doubt == doubt
    assert format_verdict(line(own, gain)) == f"text → image, R@5: {said}"


def test_a_metric_that_knows_no_chance_is_judged_by_its_gain_alone() -> None:
    verdict = judge_line(line(Estimate(4.3, 1.4, 8.0), Estimate(2.0, 1.0, 3.0), chance=None))
    assert (verdict.doubt, verdict.level) == ("", "")
