"""hit@k, recall@k and their intervals, from vectors and the pairs that are true; knows no model.

hit@k     is any true item among the first k? This is what benchmarks cite as R@k.
recall@k  what share of the true items is among the first k?

Both are means over the queries that have a true item; an item without a query is a distractor of the gallery.
Shapes: N queries with a true item, P true pairs, K values of k, M figures.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tuwen.search import Rows, Vectors, ranks

Floats = npt.NDArray[np.float64]

DRAWS_AT_ONCE = 1 << 22  # group numbers drawn at once (32 MB)
INTERVAL = (0.025, 0.975)  # the quantiles of a 95 % interval


class Judged(NamedTuple):
    """How well each query did; every field has N rows, in the order of the queries."""

    query: Rows  # [N] row in the query matrix
    best_rank: Rows  # [N] 1-based rank of the best true item in the whole gallery
    true_items: Rows  # [N]
    found: Rows  # [N, K] true items among the first k


def judge(queries: Vectors, gallery: Vectors, query: Rows, item: Rows, ks: Sequence[int]) -> Judged:
    """Rank every true item of every query in the whole gallery.

    queries [Q, D], gallery [G, D]; pair p says that gallery row item[p] is true for query row query[p]; a pair
    given twice counts once. Equal scores: lower gallery row first. Raises UserError as `search.ranks`.
    """
    pairs_P2 = np.unique(np.stack([query, item], axis=1), axis=0)
    rank_P = ranks(queries, gallery, pairs_P2[:, 0], pairs_P2[:, 1])
    asked, first, true_items = np.unique(pairs_P2[:, 0], return_index=True, return_counts=True)
    if not len(asked):
        nothing = np.zeros(0, np.int64)
        return Judged(nothing, nothing, nothing, np.zeros((0, len(ks)), np.int64))
    found = np.add.reduceat(rank_P[:, None] <= np.asarray(ks), first, axis=0, dtype=np.int64)
    return Judged(asked, np.minimum.reduceat(rank_P, first), true_items, found)


def hits(best_rank: Rows, ks: Sequence[int]) -> Floats:
    """hit@k of each query: 1 or 0, [N, K]."""
    return (best_rank[:, None] <= np.asarray(ks)).astype(np.float64)


def recalls(found: Rows, true_items: Rows) -> Floats:
    """recall@k of each query: found / true items, [N, K]."""
    return np.asarray(found / true_items[:, None])


def intervals(values: Floats, groups: npt.NDArray[Any], samples: int, seed: int) -> Floats:
    """95 % bootstrap intervals [M, 2] (low, high) of the column means of `values` [N, M].

    Queries of one group [N] (texts of one picture, say) are not independent, so whole groups are drawn with
    replacement, `samples` times; all M figures share the draws. Percentile method: Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, ch. 13.
    """
    names, group_N = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1] + 1))  # the last column counts the group's queries
    np.add.at(sums, group_N, np.column_stack([values, np.ones(len(values))]))
    draw = np.random.default_rng(seed)
    means = []
    for size in _portions(samples, max(1, DRAWS_AT_ONCE // len(names))):
        drawn = draw.integers(len(names), size=(size, len(names))) + np.arange(size)[:, None] * len(names)
        times = np.bincount(drawn.ravel(), minlength=size * len(names)).reshape(size, len(names))
        totals = times.astype(np.float64) @ sums
        means.append(totals[:, :-1] / totals[:, -1:])
    return np.quantile(np.concatenate(means), INTERVAL, axis=0).T


def paired_intervals(first: Floats, second: Floats, groups: npt.NDArray[Any], samples: int, seed: int) -> Floats:
    """95 % intervals [M, 2] of mean(second) - mean(first): two models asked the same queries, [N, M] each."""
    assert first.shape == second.shape
    return intervals(second - first, groups, samples, seed)


def _portions(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
