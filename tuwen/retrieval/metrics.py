"""hit@k, recall@k and AUC, from vectors and the true pairs; needs no model.

hit@k     is any true item among the first k? This is what benchmarks cite as R@k.
recall@k  what share of the true items is among the first k?

Both are means over the queries that have a true item; an item without a query is a distractor of the gallery.
Shapes: N queries with a true item, P true pairs, K values of k, M metrics, S sizes of a gallery.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from tuwen.core.errors import UserError
from tuwen.retrieval.search import rank_items
from tuwen.retrieval.vectors import Flags, Floats, RetrievalTask, Rows


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
    return judge_ranks(*rank_true_items(task), ks)


def rank_true_items(task: RetrievalTask) -> tuple[Rows, Rows]:
    """Return the query [P] and the 1-based rank [P] of each true pair, every pair once, by query and item."""
    pairs_P2 = np.unique(np.stack([task.query, task.item], axis=1), axis=0)
    return pairs_P2[:, 0], rank_items(task.queries, task.gallery, pairs_P2[:, 0], pairs_P2[:, 1])


def judge_ranks(query_P: Rows, rank_P: Rows, ks: Sequence[int]) -> Judged:
    """Judge queries by the 1-based ranks [P] of their true items, each of which is named once; query_P ascends."""
    query, first, true_items = np.unique(query_P, return_index=True, return_counts=True)
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
    return float(compute_weighted_aucs(np.ones((1, len(score))), score, fits)[0])


def compute_weighted_aucs(weight_SP: Floats, score: Floats, fits: Flags) -> Floats:
    """Return `compute_auc` [S] where pair p counts `weight_SP[s, p]` times: S samples of the bootstrap."""
    order = np.argsort(score, kind="stable")
    first = np.unique(score[order], return_index=True)[1]  # pairs of one score stand together
    fitting, unfitting = (
        np.add.reduceat(weight_SP[:, order] * kind[order], first, axis=1) for kind in (fits, ~fits)
    )
    below = unfitting.cumsum(axis=1) - unfitting / 2
    with np.errstate(invalid="ignore"):
        return np.asarray((fitting * below).sum(axis=1) / (fitting.sum(axis=1) * unfitting.sum(axis=1)))
