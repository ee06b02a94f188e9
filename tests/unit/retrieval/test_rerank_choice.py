"""Depth and weight are chosen by ranks that are moved, not searched again."""

import numpy as np
import pytest

from tests.support.vectors import unit
from tuwen.retrieval.metrics import compute_hits, judge_answers, judge_queries, rank_true_items
from tuwen.retrieval.rerank import Matches, rerank
from tuwen.retrieval.rerank_choice import WEIGHTS, OrderChoice, TrueRanks, choose_order, judge_choice, list_depths
from tuwen.retrieval.search import top_k
from tuwen.retrieval.vectors import RetrievalTask

KS = [1, 2, 5]


def make(seed: int, knowing: float) -> tuple[RetrievalTask, Matches]:
    """Thirty queries, twenty items, some queries with two true ones; knowing: how well the match tells them."""
    random = np.random.default_rng(seed)
    gallery = unit(random.normal(size=(20, 8))).astype(np.float32)
    true = np.arange(30) % 20
    queries = unit(gallery[true] + 1.2 * random.normal(size=(30, 8))).astype(np.float32)
    query, item = np.concatenate([np.arange(30), np.arange(10)]), np.concatenate([true, (true[:10] + 7) % 20])
    rows, cosine = top_k(queries, gallery, 12)
    match = random.random((30, 12)) * (1 - knowing) + knowing * (rows == true[:, None])
    return RetrievalTask(queries, gallery, query, item), Matches(rows, cosine, match.astype(np.float32))


@pytest.mark.parametrize("depth", [1, 2, 5, 12])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_moved_ranks_are_those_of_the_new_order_of_the_whole_gallery(depth: int, weight: float) -> None:
    task, matches = make(0, 0.3)
    judged = judge_choice(TrueRanks(*rank_true_items(task)), matches, OrderChoice(depth, weight), KS)
    beyond_Qr = top_k(task.queries, task.gallery, 20)[0][:, 12:]
    answers_QG = np.concatenate([rerank(matches, depth, weight), beyond_Qr], axis=1)
    for own, other in zip(judged, judge_answers(task, answers_QG, KS), strict=True):
        assert own.tolist() == other.tolist()


def test_by_the_cosine_alone_nothing_changes() -> None:
    task, matches = make(0, 0.3)
    plain = matches._replace(match=np.zeros_like(matches.match))
    judged = judge_choice(TrueRanks(*rank_true_items(task)), plain, OrderChoice(12, 1.0), KS)
    for own, other in zip(judged, judge_queries(task, KS), strict=True):
        assert own.tolist() == other.tolist()


def test_a_match_that_knows_is_read_deep_and_one_that_knows_nothing_changes_least() -> None:
    task, matches = make(1, 1.0)
    true = TrueRanks(*rank_true_items(task))
    knowing = choose_order(true, matches, 12, KS)
    assert knowing.k == 12
    hits = compute_hits(judge_choice(true, matches, knowing, KS), KS).mean()
    assert hits > compute_hits(judge_choice(true, matches, OrderChoice(1, 0.0), KS), KS).mean()
    silent = matches._replace(match=np.zeros_like(matches.match))
    assert choose_order(true, silent, 12, KS) == OrderChoice(1, max(WEIGHTS))


def test_a_match_that_misleads_is_not_followed() -> None:
    task, matches = make(1, 1.0)
    true = TrueRanks(*rank_true_items(task))
    wrong = matches._replace(match=1000 * (1 - matches.match))  # no weight of the cosine outweighs it
    assert choose_order(true, wrong, 12, KS).k == 1


def test_depths_double_up_to_the_most() -> None:
    assert [list_depths(most) for most in (1, 2, 3, 8, 32, 50)] == [
        [1],
        [2],
        [2, 3],
        [2, 4, 8],
        [2, 4, 8, 16, 32],
        [2, 4, 8, 16, 32, 50],
    ]
