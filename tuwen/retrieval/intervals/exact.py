"""Clopper and Pearson's interval where the bootstrap has too few different groups to draw from.

With 1 hit among 139 groups, a third of all draws holds none, and the others hold one, two or three: the bootstrap
knows four values and calls 3.9 % impossible, at which 1 of 139 is still to be expected. Docs: docs/results.md.
Shapes: M metrics. Groups are the units that are drawn, independent of each other.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tuwen.retrieval.vectors import Flags, Floats, Rows

INTERVAL = (0.025, 0.975)  # the quantiles of a 95 % interval
POINT = 1e-9  # an interval that is narrower is a point, but for rounding
FEW_HITS = 5  # fewer hits, or fewer misses, are counted exactly
FEW_CHANGES = 6  # as many groups must change, all in one direction, for a sign test to be sure at 5 %


def compute_clopper_pearson(hits: Floats, groups: Floats | Rows) -> Floats:
    """Return the 95 % interval [..., 2] of a share of which `hits` of `groups` were seen.

    hits need not be whole: where queries of a group differ, the group counts in part. Clopper and Pearson, 1934.
    """
    from scipy.special import betaincinv

    misses = groups - hits
    low = betaincinv(np.maximum(hits, POINT), misses + 1, INTERVAL[0])
    high = betaincinv(hits + 1, np.maximum(misses, POINT), INTERVAL[1])
    return np.stack([np.where(hits < POINT, 0, low), np.where(misses < POINT, 1, high)], axis=-1)


class Spread(NamedTuple):
    """How the values of each metric [M] spread over the groups that are drawn."""

    up: Floats  # the mean of the parts of the values above 0 ...
    down: Floats  # ... and below it, as a positive number
    groups: Rows  # that hold a value which counts
    fewest: Rows  # groups with a hit, or with a miss, whichever are fewer; of a difference, those with a change
    least: Floats  # what a value can be at least: 0 for a share, -1 for a difference of two


def measure_spread(values: Floats, groups: npt.NDArray[Any], least: Floats) -> Spread:
    """Return the spread of the columns of `values` [N, M] over `groups` [N]; least [M] as in `Spread`."""
    up, down = (np.nanmean(np.maximum(part, 0), axis=0) for part in (values, -values))
    counted, hits, misses, kept = (
        _count_groups(rows, groups) for rows in (~np.isnan(values), values > 0, values < 1, values > -1)
    )
    changes = _count_groups((values < 0) | (values > 0), groups)
    fewest = np.where(least < 0, np.minimum(np.minimum(changes, misses), kept), np.minimum(hits, misses))
    return Spread(up, down, counted, fewest, least)


def extend_by_mean(spread: Spread, columns: Sequence[int]) -> Spread:
    """Return the spread with one metric more, the mean of these."""
    own = list(columns)
    return Spread(
        np.append(spread.up, spread.up[own].mean()),
        np.append(spread.down, spread.down[own].mean()),
        np.append(spread.groups, spread.groups[own].min()),
        np.append(spread.fewest, spread.fewest[own].max()),
        np.append(spread.least, spread.least[own].max()),
    )


def _count_groups(rows: Flags, groups: npt.NDArray[Any]) -> Rows:
    """Count the groups [M] that have one of these rows [N, M]."""
    _, group_N = np.unique(groups, return_inverse=True)
    return np.array([len(np.unique(group_N[column])) for column in rows.T], np.int64)


def count_exactly(spread: Spread) -> Floats:
    """Return the interval [M, 2] by the counts alone.

    That of a difference reaches from the least rise less the largest fall to the largest rise less the least fall.
    """
    rise, fall = (
        compute_clopper_pearson(part * spread.groups, spread.groups) for part in (spread.up, spread.down)
    )
    falls = np.where((spread.least < 0)[..., None], fall[..., ::-1], 0)
    return np.asarray(rise - falls)


def find_points(ends: Floats) -> Flags:
    """Tell which intervals [..., 2] are a point: every group drawn had the same mean."""
    return np.asarray(ends[..., 1] - ends[..., 0] < POINT)


def extend_points(ends: Floats, groups: int | Rows, *, least: float | Floats = 0) -> Floats:
    """Return `ends` [..., 2] with an exact interval wherever the bootstrap's is a point.

    Where all groups have the same mean, so has every draw: 0 of 139 would be 0 for certain. But of G groups, drawn
    independently, of which none differs, the share that differs in truth may be as large as 1 - 0.025^(1/G): the
    end of the interval of Clopper and Pearson (1934) for 0 of G. Those may have any value from `least` (0 for a
    share, -1 for a difference of two) to 1. groups: G, for each interval.
    """
    point = ends.mean(axis=-1)
    unseen = 1 - INTERVAL[0] ** (1 / np.maximum(groups, 1))
    low, high = point - unseen * np.maximum(point - least, 0), point + unseen * np.maximum(1 - point, 0)
    return np.where(find_points(ends)[..., None], np.stack([low, high], axis=-1), ends)


def replace_ends(ends: Floats, spread: Spread) -> tuple[Floats, Flags]:
    """Return the bootstrap's `ends` [M, 2] with exact ones where it is not to be trusted, and which these are [M].

    That is where every draw had the same mean, where fewer than FEW_HITS groups hold a hit or a miss, and of a
    difference where fewer than FEW_CHANGES changed (or all but so few changed in whole, in one direction).
    """
    points = find_points(ends)
    sparse = spread.fewest < np.where(spread.least < 0, FEW_CHANGES, FEW_HITS)
    extended = extend_points(ends, spread.groups, least=spread.least)
    return np.where(sparse[:, None], count_exactly(spread), extended), sparse | points
