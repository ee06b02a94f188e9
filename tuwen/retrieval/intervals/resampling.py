"""95 % intervals of what `metrics` computes: the bootstrap over groups, and exact ones where it sees too little.

Shapes: N queries with a true item, M metrics. A group is what is drawn: its rows are not independent.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tuwen.retrieval.intervals.exact import INTERVAL, extend_points, measure_spread, replace_ends
from tuwen.retrieval.metrics import compute_weighted_aucs
from tuwen.retrieval.vectors import Flags, Floats

DRAWS_AT_ONCE = 1 << 22  # group numbers drawn at once (32 MB)
SAMPLES, SEED = 2000, 0  # of the bootstrap, where no params.yaml says it


def bootstrap(values: Floats, groups: npt.NDArray[Any], samples: int, seed: int) -> Floats:
    """Return column means [samples, M] of `values` [N, M] over groups drawn with replacement.

    Queries of one group [N] (texts of one picture, say) are not independent, so whole groups are drawn; all M
    metrics share the draws. NaN: this row does not count in this column. Efron and Tibshirani, An Introduction to
    the Bootstrap, 1993, ch. 13.
    """
    names, group_N = np.unique(groups, return_inverse=True)
    counted = ~np.isnan(values)
    columns = [*np.where(counted, values, 0).T, *counted.T.astype(np.float64)]
    sums = np.stack([np.bincount(group_N, column, len(names)) for column in columns], axis=1)
    drawn = _draws(len(names), samples, seed, max(1, DRAWS_AT_ONCE // len(names)))
    totals = np.concatenate([times @ sums for times in drawn])
    with np.errstate(invalid="ignore"):  # a draw without a row that counts has no mean
        return np.asarray(totals[:, : values.shape[1]] / totals[:, values.shape[1] :])


def compute_intervals(
    values: Floats, groups: npt.NDArray[Any], samples: int, seed: int, *, least: float | Floats = 0
) -> Floats:
    """Return 95 % intervals [M, 2] (low, high) of the column means of `values` [N, M]: shares, or differences.

    By the bootstrap over groups; exact ones where it sees too little (exact.py, which `least` is for: 0
    for a share, -1 for a difference of two).
    """
    ends = compute_ends(bootstrap(values, groups, samples, seed))
    of_each = np.broadcast_to(np.asarray(least, float), values.shape[1:])
    return replace_ends(ends, measure_spread(values, groups, of_each))[0]


def compute_paired_intervals(
    first: Floats, second: Floats, groups: npt.NDArray[Any], samples: int, seed: int
) -> Floats:
    """Return 95 % intervals [M, 2] of mean(second) - mean(first): two models, the same queries, [N, M] each."""
    assert first.shape == second.shape
    return compute_intervals(second - first, groups, samples, seed, least=-1)


def compute_ends(means: Floats) -> Floats:
    """Return the 95 % interval [..., 2] of each column of bootstrapped means [samples, ...]."""
    return np.asarray(np.nanquantile(means, INTERVAL, axis=0).T)


def compute_auc_interval(score: Floats, fits: Flags, groups: npt.NDArray[Any], samples: int, seed: int) -> Floats:
    """Return the 95 % interval [2] of `metrics.compute_auc`; groups [P] are drawn as in `compute_intervals`."""
    names, group_P = np.unique(groups, return_inverse=True)
    drawn = _draws(len(names), samples, seed, max(1, DRAWS_AT_ONCE // len(score)))
    ends = compute_ends(np.concatenate([compute_weighted_aucs(times[:, group_P], score, fits) for times in drawn]))
    fewest = min(len(np.unique(groups[kind])) for kind in (fits, ~fits))
    return np.asarray(extend_points(ends, fewest))


def _draws(groups: int, samples: int, seed: int, at_once: int) -> Iterator[Floats]:
    """Yield how often each group is drawn, [at most at_once, groups] at a time, `samples` rows in all."""
    draw = np.random.default_rng(seed)
    for start in range(0, samples, at_once):
        size = min(at_once, samples - start)
        drawn = draw.integers(groups, size=(size, groups)) + np.arange(size)[:, None] * groups
        yield np.bincount(drawn.ravel(), minlength=size * groups).reshape(size, groups).astype(np.float64)
