"""How likely a query's first answer is right, by its score: two numbers fitted on a set like valid.

A cosine is no probability: what is high for one model is low for another. Platt (Probabilistic outputs for
support vector machines, 1999) fits p = 1 / (1 + exp(-(slope x score + intercept))); a few hundred queries suffice
for it. Only the score of the first answer is asked, not its lead over the second: where many pictures fit, the
first leads by little and is right all the same.
Shapes: N queries with a true item.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.json_file import read_json
from tuwen.retrieval.vectors import Flags, Floats

RELIABILITY = "reliability.json"  # of an index: what is said of first answers there against what comes true
_DIGITS = 6  # of what is written
MOST_BINS = 10
NEWTON_STEPS = 100  # of Newton's method at most; about eight are taken
STEEPEST = 1e-10  # gradient per query at which it has arrived
LEAST_GROWTH = 0.5  # log of how many times larger a gallery is
FARTHEST, HALVINGS = 20.0, 40  # of a shift of the log odds


class FirstAnswers(NamedTuple):
    """The first answer of each query that has a true item."""

    score: Floats  # [N] cosine, or what a re-ranker orders by
    right: Flags  # [N] whether it is a true item
    gallery: int = 1  # items that were searched


class Calibration(NamedTuple):
    """Platt's curve; slope 0: the score tells nothing, and every probability is the share of right answers."""

    slope: float
    intercept: float

    def probability(self, score: float, shift: float = 0.0) -> float:
        """Return the probability that a first answer of this score is right.

        shift: what the log odds change by in the gallery at hand, see `Growth`.
        """
        return float(_squash(np.asarray(self.slope * score + self.intercept + shift)))


class Growth(NamedTuple):
    """How the odds of a right first answer change with the number of items that are searched.

    An exponent of -1 is that of items which are never right and may score higher by chance, as in a set where each
    query has its own; where some of what comes to a gallery is right too it lies nearer to 0.
    """

    gallery: int  # items beside which the curve was fitted
    exponent: float

    def shift(self, items: int) -> float:
        """Return what the log odds change by where so many items are searched."""
        return self.exponent * float(np.log(items / self.gallery))


def fit_calibration(scores: Floats, right: Flags) -> Calibration:
    """Return the curve of the greatest likelihood; scores and right [N], at least one query.

    Targets are Platt's, a little within 0 and 1, so that scores that part right from wrong without a fault have a
    finite slope too. Newton's method with halved steps (Lin, Lin and Weng, A note on Platt's probabilistic
    outputs, 2007). A score that falls where answers are right is taken to tell nothing.
    """
    assert len(scores) == len(right) > 0
    hits, misses = int(right.sum()), int((~right).sum())
    target_N = np.where(right, (hits + 1) / (hits + 2), 1 / (misses + 2))
    share = target_N.mean()
    flat = Calibration(0.0, float(np.log(share / (1 - share))))
    centre, spread = scores.mean(), scores.std()
    if spread < 1e-9:
        return flat
    design_N2 = np.stack([(scores - centre) / spread, np.ones(len(scores))], axis=1)
    weights_2 = np.array([0.0, flat.intercept])
    for _ in range(NEWTON_STEPS):
        p_N = _squash(design_N2 @ weights_2)
        gradient_2 = design_N2.T @ (p_N - target_N)
        if np.abs(gradient_2).max() < STEEPEST * len(scores):
            break
        step_2 = np.linalg.solve((design_N2.T * (p_N * (1 - p_N))) @ design_N2, gradient_2)
        before = _measure_loss(design_N2, weights_2, target_N)
        while _measure_loss(design_N2, weights_2 - step_2, target_N) > before and np.abs(step_2).max() > 1e-12:
            step_2 = step_2 / 2
        weights_2 = weights_2 - step_2
    slope = weights_2[0] / spread
    return Calibration(float(slope), float(weights_2[1] - slope * centre)) if slope > 0 else flat


def fit_growth(curve: Calibration, fitted: int, answers: FirstAnswers) -> Growth:
    """Return the growth by which a curve says, in the mean, how many of these answers are right.

    fitted: items beside which the curve was fitted. The share is Platt's, a little within 0 and 1. The mean of
    what is said falls with the shift, so it is found by halving. A gallery that is hardly larger tells nothing,
    and is taken to hold items that are never right.
    """
    growth = np.log(answers.gallery / fitted)
    if growth < LEAST_GROWTH:
        return Growth(fitted, -1.0)
    share = (int(answers.right.sum()) + 1) / (len(answers.right) + 2)
    logit_N = curve.slope * answers.score + curve.intercept
    low, high = -FARTHEST, FARTHEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _squash(logit_N + middle).mean() < share else (low, middle)
    return Growth(fitted, round(float(middle / growth), _DIGITS))


def _squash(logit: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0, -logit)))


def _measure_loss(design_N2: Floats, weights_2: Floats, target_N: Floats) -> float:
    logit_N = design_N2 @ weights_2
    return float((np.logaddexp(0, logit_N) - target_N * logit_N).sum())


def measure_calibration(valid: FirstAnswers, test: FirstAnswers) -> dict[str, Any]:
    """Fit on valid, judge on test; return what details.json holds of one order of the answers.

    A query has its true items, however many others there are, and each may score higher by chance: so the odds
    fall as the gallery grows, and for test they are divided by how much larger its gallery is than valid's. What
    an index holds may be right too, so there the growth is measured (`fit_growth`).
    Reliability: the queries of test by their probability, in at most MOST_BINS bins of equally many; of each the
    mean probability and the share of right answers. ece: the expected calibration error, the mean distance of both
    (Naeini et al. 2015; equal counts as Nguyen and O'Connor 2015 have them, since equal widths leave most bins
    empty). brier: the mean square of probability - outcome (Brier 1950); always saying test's own share p would
    have p (1 - p).
    """
    curve = fit_calibration(valid.score, valid.right)
    return {
        "slope": round(curve.slope, _DIGITS),
        "intercept": round(curve.intercept, _DIGITS),
        "fitted_on": len(valid.score),
        **judge_calibration(curve, Growth(valid.gallery, -1.0), test),
    }


def judge_calibration(curve: Calibration, growth: Growth, test: FirstAnswers) -> dict[str, Any]:
    """Return what was said of these answers and what came true, as `measure_calibration` describes it."""
    p_N = _squash(curve.slope * test.score + curve.intercept + growth.shift(test.gallery))
    bins = []
    for rows in np.array_split(np.argsort(p_N, kind="stable"), min(MOST_BINS, len(p_N))):
        said, seen = float(p_N[rows].mean()), float(test.right[rows].mean())
        bins.append({"queries": len(rows), "said": said, "seen": seen})
    return {
        "queries": len(p_N),
        "right": round(float(test.right.mean()), _DIGITS),
        "brier": round(float(((p_N - test.right) ** 2).mean()), _DIGITS),
        "ece": round(sum(one["queries"] * abs(one["said"] - one["seen"]) for one in bins) / len(p_N), _DIGITS),
        "bins": [{name: round(value, _DIGITS) for name, value in one.items()} for one in bins],
    }


def read_calibrations(details: Path) -> dict[str, dict[str, Calibration]]:
    """Return direction -> order of the answers, `cosine` or `reranked`, -> its curve, from a model's details.json.

    A re-ranker has both, and `cosine` alone where valid was for no other order. Raises UserError where the file
    does not tell.
    """
    remedy = f"run `dvc repro evaluate@{details.parent.name}`"
    body = read_json(details, remedy)
    try:
        return {
            name: {
                order: Calibration(float(one["slope"]), float(one["intercept"]))
                for order, one in body["calibration"][name].items()
                if one is not None
            }
            for name in DIRECTIONS
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{details}: does not say how sure an answer is ({error!r}); {remedy}") from None
