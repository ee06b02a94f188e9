"""The first answers in a new order: by the probability of a match and the cosine; beyond them nothing changes.

Score = probability + weight x cosine, as R2D2 adds both; equal scores keep the order of the cosine.
Shapes: Q queries, R first answers by cosine, K of them that were scored, P true pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tuwen.retrieval.metrics import Judged, compute_hits, judge_ranks
from tuwen.retrieval.vectors import Rows, Vectors

WEIGHTS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the cosine, to choose from; R2D2's is 1


class Scored(NamedTuple):
    """The first answers of every query, and what a re-ranker says of the first K."""

    first: Rows  # [Q, R] gallery rows by cosine, best first
    cosine: Vectors  # [Q, R]
    match: Vectors  # [Q, K] probability that query and answer belong together; K is R or less


class Choice(NamedTuple):
    """How the first answers are reordered."""

    k: int  # how many of them; 1 leaves all as they are
    weight: float  # of the cosine


def list_depths(most: int) -> list[int]:
    """Return the depths to choose from: 2, 4, 8 … and `most` itself, which is 1 or more."""
    powers = [2**n for n in range(1, most.bit_length()) if 2**n < most]
    return [*powers, most]


def order_first(scored: Scored, choice: Choice) -> Rows:
    """Return the places [Q, k] of the first k answers in their new order, best first."""
    k = min(choice.k, scored.match.shape[1])
    score_QK = scored.match[:, :k].astype(np.float64) + choice.weight * scored.cosine[:, :k].astype(np.float64)
    return np.argsort(-score_QK, axis=1, kind="stable")


def reorder(scored: Scored, choice: Choice) -> Rows:
    """Return the first answers [Q, R], gallery rows, in their new order."""
    place_Qk, answers = order_first(scored, choice), scored.first.copy()
    answers[:, : place_Qk.shape[1]] = np.take_along_axis(scored.first, place_Qk, axis=1)
    return answers


def move_ranks(query_P: Rows, rank_P: Rows, place_Qk: Rows) -> Rows:
    """Return the new 1-based ranks [P] of true items; query_P, rank_P: as `rank_true_items` returns them.

    place_Qk: what `order_first` returned. An item beyond the first k stays where it is.
    """
    k, moved = place_Qk.shape[1], rank_P.copy()
    rank_Qk = np.argsort(place_Qk, axis=1) + 1  # the inverse permutation
    within = rank_P <= k
    moved[within] = rank_Qk[query_P[within], rank_P[within] - 1]
    return moved


def judge_reordered(query_P: Rows, rank_P: Rows, scored: Scored, choice: Choice, ks: Sequence[int]) -> Judged:
    """Judge the new order; query_P, rank_P: true items by cosine, as `rank_true_items` returns them."""
    return judge_ranks(query_P, move_ranks(query_P, rank_P, order_first(scored, choice)), ks)


def choose_order(query_P: Rows, rank_P: Rows, scored: Scored, ks: Sequence[int]) -> Choice:
    """Return the depth and the weight with the best mean of hit@k over ks; of equal ones what changes least.

    That is the smallest depth, and there the largest weight. For a task that is not reported on.
    """
    choices = [Choice(k, weight) for k in list_depths(scored.match.shape[1]) for weight in reversed(WEIGHTS)]
    hits = [compute_hits(judge_reordered(query_P, rank_P, scored, choice, ks), ks).mean() for choice in choices]
    return choices[int(np.argmax(hits))]
