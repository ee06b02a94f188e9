"""hit@k, recall@k and their intervals, from vectors and the true pairs; needs no model.

hit@k     is any true item among the first k? This is what benchmarks cite as R@k.
recall@k  what share of the true items is among the first k?

Both are means over the queries that have a true item; an item without a query is a distractor of the gallery.
Shapes: N queries with a true item, P true pairs, K values of k, M metrics, S sizes of a gallery.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tuwen.core.errors import UserError
from tuwen.retrieval.exact_intervals import INTERVAL, extend_points, measure_spread, replace_ends
from tuwen.retrieval.search import rank_items
from tuwen.retrieval.vectors import Flags, Floats, RetrievalTask, Rows

DRAWS_AT_ONCE = 1 << 22  # group numbers drawn at once (32 MB)
SAMPLES, SEED = 2000, 0  # of the bootstrap, where no params.yaml says it


class Judged(NamedTuple):
    """How well each query did; every field has N rows, in the order of the queries."""

    query: Rows  # [N] row in the query matrix
    best_rank: Rows  # [N] 1-based rank of the best true item
    true_items: Rows  # [N]
    found: Rows  # [N, K] true items among the first k


def judge_queries(task: RetrievalTask, ks: Sequence[int]) -> Judged:
    """Rank every true item of every query in the whole gallery.

    Equal scores: lower gallery row first. Raises UserError as `search.rank_items`.
    """
    pairs_P2 = np.unique(np.stack([task.query, task.item], axis=1), axis=0)
    rank_P = rank_items(task.queries, task.gallery, pairs_P2[:, 0], pairs_P2[:, 1])
    query, first, true_items = np.unique(pairs_P2[:, 0], return_index=True, return_counts=True)
    if not len(query):
        nothing = np.zeros(0, np.int64)
        return Judged(nothing, nothing, nothing, np.zeros((0, len(ks)), np.int64))
    found = np.add.reduceat(rank_P[:, None] <= np.asarray(ks), first, axis=0, dtype=np.int64)
    return Judged(query, np.minimum.reduceat(rank_P, first), true_items, found)


def judge_answers(task: RetrievalTask, answers: Rows, ks: Sequence[int]) -> Judged:
    """Judge the first answers [Q, R] of all queries, gallery rows, best first; R is at least every k.

    Where no true item is among them, the best rank is R + 1: it lies somewhere beyond.
    """
    pairs_P2 = np.unique(np.stack([task.query, task.item], axis=1), axis=0)
    query, true_items = np.unique(pairs_P2[:, 0], return_counts=True)
    size = 1 + max(int(answers.max(initial=0)), int(task.item.max(initial=0)))
    is_true_NR = np.isin(query[:, None] * size + answers[query], pairs_P2[:, 0] * size + pairs_P2[:, 1])
    best_rank = np.where(is_true_NR.any(axis=1), is_true_NR.argmax(axis=1) + 1, answers.shape[1] + 1)
    return Judged(query, best_rank, true_items, is_true_NR.cumsum(axis=1)[:, np.asarray(ks) - 1])


def check_ks(ks: Sequence[int], gallery: int, place: str) -> None:
    """Raise UserError, naming `place`, for a k over the `gallery`: there hit@k is 1 whatever the model."""
    if max(ks) > gallery:
        raise UserError(f"{place}: k = {max(ks)} is over the gallery of {gallery}; lower it, or take more data")


def compute_hits(judged: Judged, ks: Sequence[int]) -> Floats:
    """Return hit@k of each query: 1 or 0, [N, K]."""
    return (judged.best_rank[:, None] <= np.asarray(ks)).astype(np.float64)


def compute_chances(judged: Judged, gallery: int, ks: Sequence[int]) -> Floats:
    """Return hit@k of a ranking at random, [N, K]: 1 - C(G - t, k) / C(G, k) for t true items of G; exact."""
    true_items, query_N = np.unique(judged.true_items, return_inverse=True)
    rank = np.arange(max(ks))
    missed = np.maximum(gallery - true_items[:, None] - rank, 0) / (gallery - rank)  # each rank, all before missed
    return np.asarray((1 - missed.cumprod(axis=1))[query_N][:, np.asarray(ks) - 1])


def compute_recalls(judged: Judged, ks: Sequence[int]) -> Floats:
    """Return recall@k of each query, [N, K]: found / true items; ks: those that it was judged at."""
    return np.asarray(judged.found[:, : len(ks)] / judged.true_items[:, None])


def choose_gallery_sizes(gallery: int, least: int) -> list[int]:
    """Return sizes for a curve: 1, 2, 5, 10, 20 … from `least` on, then the whole gallery."""
    steps = (digit * 10**power for power in range(len(str(gallery))) for digit in (1, 2, 5))
    return [*(size for size in steps if least <= size < gallery), gallery]


def compute_gallery_curve(judged: Judged, gallery: int, sizes: Sequence[int], ks: Sequence[int]) -> Floats:
    """Return hit@k [S, K] as expected were the gallery cut down at random to each of `sizes` items.

    A query keeps all of its t true items; of the G - t others, size - t are drawn without replacement. A rank r in
    the whole gallery means that r - 1 others stand before the best true item, so how many of the drawn ones do is
    hypergeometric, and hit@k is the chance that they are fewer than k: exact, nothing is drawn. A query whose
    true items alone fill the size is a hit.
    """
    log_factorial = torch.lgamma(torch.arange(1, gallery + 2, dtype=torch.float64)).numpy()

    def log_choose(n: Rows, k: Rows) -> Floats:
        possible = (k >= 0) & (k <= n)
        k = np.where(possible, k, 0)
        chosen = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
        return np.asarray(np.where(possible, chosen, -np.inf))

    ahead_N1, others_N1 = judged.best_rank[:, None] - 1, gallery - judged.true_items[:, None]
    drawn_ahead = np.arange(max(ks))
    curve = []
    for size in sizes:
        drawn_N1 = np.maximum(size - judged.true_items[:, None], 0)
        ways = log_choose(ahead_N1, drawn_ahead) + log_choose(others_N1 - ahead_N1, drawn_N1 - drawn_ahead)
        chance = np.exp(ways - log_choose(others_N1, drawn_N1)).cumsum(axis=1).mean(axis=0)
        curve.append(np.minimum(chance[np.asarray(ks) - 1], 1))
    return np.array(curve)


def compute_auc(score: Floats, fits: Flags) -> float:
    """Return the area under the ROC curve: the chance that a fitting pair scores above an unfitting one.

    A tie counts half. score and fits [P], both kinds among them. Mann and Whitney, 1947; what Zero reports for
    ICM and IQM.
    """
    return float(_aucs(np.ones((1, len(score))), score, fits)[0])


def compute_auc_interval(score: Floats, fits: Flags, groups: npt.NDArray[Any], samples: int, seed: int) -> Floats:
    """Return the 95 % interval [2] of `compute_auc`; groups [P] are drawn as in `compute_intervals`."""
    names, group_P = np.unique(groups, return_inverse=True)
    drawn = _draws(len(names), samples, seed, max(1, DRAWS_AT_ONCE // len(score)))
    ends = compute_ends(np.concatenate([_aucs(times[:, group_P], score, fits) for times in drawn]))
    fewest = min(len(np.unique(groups[kind])) for kind in (fits, ~fits))
    return np.asarray(extend_points(ends, fewest))


def _aucs(weight_SP: Floats, score: Floats, fits: Flags) -> Floats:
    order = np.argsort(score, kind="stable")
    first = np.unique(score[order], return_index=True)[1]  # pairs of one score stand together
    fitting, unfitting = (
        np.add.reduceat(weight_SP[:, order] * kind[order], first, axis=1) for kind in (fits, ~fits)
    )
    below = unfitting.cumsum(axis=1) - unfitting / 2
    with np.errstate(invalid="ignore"):
        return np.asarray((fitting * below).sum(axis=1) / (fitting.sum(axis=1) * unfitting.sum(axis=1)))


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

    By the bootstrap over groups; exact ones where it sees too little (exact_intervals.py, which `least` is for: 0
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


def _draws(groups: int, samples: int, seed: int, at_once: int) -> Iterator[Floats]:
    """Yield how often each group is drawn, [at most at_once, groups] at a time, `samples` rows in all."""
    draw = np.random.default_rng(seed)
    for start in range(0, samples, at_once):
        size = min(at_once, samples - start)
        drawn = draw.integers(groups, size=(size, groups)) + np.arange(size)[:, None] * groups
        yield np.bincount(drawn.ravel(), minlength=size * groups).reshape(size, groups).astype(np.float64)
