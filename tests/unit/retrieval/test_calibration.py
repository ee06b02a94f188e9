"""Platt's curve against a plain search for the greatest likelihood, and the reliability of what it says."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize

from tuwen.core.errors import UserError
from tuwen.retrieval.calibration import (
    MOST_BINS,
    Calibration,
    FirstAnswers,
    Growth,
    fit_calibration,
    fit_growth,
    measure_calibration,
    read_calibrations,
)

Scores = npt.NDArray[np.float64]


def draw(queries: int, slope: float, intercept: float, seed: int) -> FirstAnswers:
    """Scores like cosines, and outcomes that are right as often as the curve says."""
    random = np.random.default_rng(seed)
    score = random.normal(0.4, 0.15, size=queries)
    return FirstAnswers(score, random.random(queries) < 1 / (1 + np.exp(-(slope * score + intercept))))


def find_likeliest(first: FirstAnswers) -> Scores:
    """Slope and intercept by a general optimiser of the same likelihood."""
    hits, misses = first.right.sum(), (~first.right).sum()
    target = np.where(first.right, (hits + 1) / (hits + 2), 1 / (misses + 2))

    def measure(weights: Scores) -> float:
        logit = weights[0] * first.score + weights[1]
        return float((np.logaddexp(0, logit) - target * logit).sum())

    return np.asarray(minimize(measure, [0.0, 0.0], method="BFGS", options={"gtol": 1e-9}).x)


@pytest.mark.parametrize("queries", [20, 163, 2000])
def test_the_curve_has_the_greatest_likelihood(queries: int) -> None:
    first = draw(queries, 14, -6, seed=queries)
    curve = fit_calibration(first.score, first.right)
    assert list(curve) == pytest.approx(find_likeliest(first).tolist(), rel=1e-4, abs=1e-4)


def test_with_many_queries_it_finds_the_curve_that_made_them() -> None:
    curve = fit_calibration(*draw(200_000, 14, -6, seed=1)[:2])
    assert curve.slope == pytest.approx(14, rel=0.02)
    assert curve.intercept == pytest.approx(-6, rel=0.02)
    assert curve.probability(6 / 14) == pytest.approx(0.5, abs=0.01)


def test_scores_that_part_right_from_wrong_have_a_finite_slope() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    curve = fit_calibration(scores, scores > 0.5)
    assert 1 < curve.slope < 100
    assert 0 < curve.probability(0.0) < 0.2
    assert 0.8 < curve.probability(1.0) < 1


@pytest.mark.parametrize(
    ("scores", "right"),
    [
        ([0.5, 0.5, 0.5, 0.5], [True, False, False, False]),  # equal scores
        ([0.9, 0.8, 0.2, 0.1], [False, False, False, True]),  # the lower the better
        ([0.3], [False]),
    ],
)
def test_a_score_that_tells_nothing_gives_the_share(scores: list[float], right: list[bool]) -> None:
    curve = fit_calibration(np.array(scores), np.array(right))
    assert curve.slope == 0
    hits, misses = sum(right), len(right) - sum(right)
    share = (hits * (hits + 1) / (hits + 2) + misses / (misses + 2)) / len(right)
    assert [curve.probability(score) for score in (0.0, 1.0)] == pytest.approx([share, share])


@pytest.mark.parametrize("right", [True, False])
def test_where_all_or_none_are_right_it_is_sure_but_not_wholly(right: bool) -> None:
    curve = fit_calibration(np.linspace(0.2, 0.8, 50), np.full(50, right))
    assert (curve.probability(0.5) > 0.5) == right
    assert 0 < curve.probability(0.5) < 1


def test_a_huge_score_overflows_nothing() -> None:
    with np.errstate(over="raise", invalid="raise"):
        assert Calibration(1e6, 0.0).probability(1.0) == 1
        assert Calibration(1e6, -2e6).probability(0.0) == 0


def test_reliability_is_brier_and_ece_by_their_definitions() -> None:
    valid, test = draw(300, 14, -6, seed=3), draw(505, 14, -6, seed=4)
    body = measure_calibration(valid, test)
    curve = fit_calibration(*valid[:2])
    said = np.array([curve.probability(score) for score in test.score])
    assert body["brier"] == pytest.approx(np.mean((said - test.right) ** 2), abs=1e-6)
    assert body["brier"] < body["right"] * (1 - body["right"])  # it tells more than the share alone
    bins = body["bins"]
    assert [one["queries"] for one in bins] == [51] * 5 + [50] * 5
    assert len(bins) == MOST_BINS
    order = np.argsort(said)
    for one, rows in zip(bins, np.array_split(order, MOST_BINS), strict=True):
        assert one["said"] == pytest.approx(said[rows].mean(), abs=1e-6)
        assert one["seen"] == pytest.approx(test.right[rows].mean(), abs=1e-6)
    distance = sum(one["queries"] * abs(one["said"] - one["seen"]) for one in bins) / 505
    assert body["ece"] == pytest.approx(distance, abs=1e-5)
    assert body["ece"] < 0.08  # the test is of the same kind as valid
    assert (body["fitted_on"], body["queries"]) == (300, 505)
    assert measure_calibration(valid, test) == body


def test_in_a_larger_gallery_the_odds_fall_in_proportion() -> None:
    valid = draw(300, 14, -6, seed=3)._replace(gallery=100)
    few, many = (measure_calibration(valid, valid._replace(gallery=size)) for size in (100, 400))
    odds = [[one["said"] / (1 - one["said"]) for one in body["bins"]] for body in (few, many)]
    assert [high / low for high, low in zip(*odds, strict=True)] == pytest.approx([4] * MOST_BINS, rel=0.1)
    assert (few["slope"], few["intercept"]) == (many["slope"], many["intercept"])


@pytest.mark.parametrize("exponent", [-1.1, -0.45, 0.0, 0.2])
def test_how_the_odds_fall_is_found_again(exponent: float) -> None:
    curve, fallen = Calibration(14, -6), -6 + exponent * np.log(30)
    answers = draw(100_000, 14, fallen, seed=6)._replace(gallery=3000)
    growth = fit_growth(curve, 100, answers)
    assert growth == Growth(100, pytest.approx(exponent, abs=0.02))
    said = [curve.probability(score, growth.shift(3000)) for score in answers.score]
    assert np.mean(said) == pytest.approx(answers.right.mean(), abs=1e-4)
    assert curve.probability(0.4, growth.shift(100)) == curve.probability(0.4)


@pytest.mark.parametrize(("right", "most"), [(True, 6.0), (False, 0.0)])
def test_where_all_or_none_are_right_the_odds_stay_finite(right: bool, most: float) -> None:
    answers = FirstAnswers(np.linspace(0.2, 0.8, 50), np.full(50, right), 1000)
    assert -6 < fit_growth(Calibration(14, -6), 100, answers).exponent < most


def test_a_gallery_that_is_hardly_larger_tells_nothing() -> None:
    answers = FirstAnswers(np.linspace(0.2, 0.8, 50), np.full(50, True), 150)
    assert fit_growth(Calibration(14, -6), 100, answers) == Growth(100, -1.0)


def test_of_a_few_queries_each_has_a_bin_of_its_own() -> None:
    few = draw(4, 14, -6, seed=5)
    assert [one["queries"] for one in measure_calibration(few, few)["bins"]] == [1] * 4


def test_curves_are_read_by_direction_and_order(tmp_path: Path) -> None:
    path = tmp_path / "reranked/details.json"
    path.parent.mkdir()
    curve = {"slope": 12, "intercept": -5.5, "bins": []}
    orders = {"t2i": {"cosine": curve, "reranked": curve | {"slope": 3}}, "i2t": {"cosine": curve}}
    path.write_text(json.dumps({"calibration": orders}))
    assert read_calibrations(path) == {
        "t2i": {"cosine": Calibration(12, -5.5), "reranked": Calibration(3, -5.5)},
        "i2t": {"cosine": Calibration(12, -5.5)},
    }
    for body in ({}, {"calibration": None}, {"calibration": {"t2i": orders["t2i"]}}):
        path.write_text(json.dumps(body))
        with pytest.raises(UserError, match=r"reranked/details\.json: does not say how sure .* evaluate@reranked"):
            read_calibrations(path)
