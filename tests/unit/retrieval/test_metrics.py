import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.vectors import unit
from tuwen.core.errors import UserError
from tuwen.retrieval import metrics
from tuwen.retrieval.search import top_k
from tuwen.retrieval.vectors import RetrievalTask

KS = (1, 5, 10)


def naive(queries, gallery, truth, k):
    """By the definitions: query -> (best rank, true items, found at k, hit@k, recall@k); truth: query -> items."""
    answers = {}
    for query, true in truth.items():
        scores = [float((queries[query].astype(np.float64) * row).sum()) for row in gallery]
        order = sorted(range(len(gallery)), key=lambda item: (-scores[item], item))
        found = len(true & set(order[:k]))
        best = min(order.index(item) + 1 for item in true)
        answers[query] = (best, len(true), found, float(found > 0), found / len(true))
    return answers


@st.composite
def retrieval(draw):
    """Vectors with ties, several captions per picture, several pictures per caption, distractors."""
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds = unit(noise.normal(size=(draw(st.integers(1, 8)), 5)))
    queries = kinds[noise.integers(len(kinds), size=draw(st.integers(1, 12)))]
    gallery = kinds[noise.integers(len(kinds), size=draw(st.integers(1, 25)))]
    pairs = draw(
        st.lists(
            st.tuples(st.integers(0, len(queries) - 1), st.integers(0, len(gallery) - 1)), min_size=1, max_size=30
        )
    )
    return queries, gallery, np.array(pairs)


@settings(max_examples=60, deadline=None)
@given(retrieval())
def test_equal_to_the_naive_definitions(case):
    queries, gallery, pairs = case
    truth: dict[int, set[int]] = {}
    for query, item in pairs.tolist():
        truth.setdefault(query, set()).add(item)
    task = RetrievalTask(queries, gallery, pairs[:, 0], pairs[:, 1])
    judged = metrics.judge_queries(task, KS)
    hit, share = metrics.compute_hits(judged, KS), metrics.compute_recalls(judged, KS)
    assert judged.query.tolist() == sorted(truth)
    for column, k in enumerate(KS):
        expected = naive(queries, gallery, truth, k)
        found = {
            query: (
                int(judged.best_rank[n]),
                int(judged.true_items[n]),
                int(judged.found[n, column]),
                float(hit[n, column]),
                float(share[n, column]),
            )
            for n, query in enumerate(judged.query.tolist())
        }
        assert found == expected
    if len(gallery) >= KS[-1]:
        first, _ = top_k(queries, gallery, KS[-1])
        again = metrics.judge_answers(task, first, KS)
        for field in ("query", "true_items", "found"):
            np.testing.assert_array_equal(getattr(again, field), getattr(judged, field))
        np.testing.assert_array_equal(again.best_rank, np.minimum(judged.best_rank, KS[-1] + 1))


def test_a_true_item_beyond_all_answers_is_nobodys_hit():
    vectors = unit(np.ones((4, 2)))
    task = RetrievalTask(vectors[:2], vectors, np.array([0, 1]), np.array([3, 2]))
    judged = metrics.judge_answers(task, np.array([[0], [1]]), [1])
    assert judged.best_rank.tolist() == [2, 2]
    assert metrics.compute_hits(judged, [1]).tolist() == [[0.0], [0.0]]


def test_a_k_over_the_gallery_is_refused_with_its_place():
    metrics.check_ks(KS, 10, "params.yaml: evaluate.ks")
    with pytest.raises(UserError, match=r"^params\.yaml: evaluate\.ks: k = 10 is over the gallery of 9; lower it"):
        metrics.check_ks(KS, 9, "params.yaml: evaluate.ks")


def test_hit_and_recall_differ_where_several_are_true():
    gallery = unit(np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0]]))
    # the query stands on item 0; items 0 and 3 (the last of all) are true
    task = RetrievalTask(gallery[:1], gallery, np.array([0, 0]), np.array([0, 3]))
    judged = metrics.judge_queries(task, [1, 3])
    assert judged.best_rank.tolist() == [1]
    assert judged.found.tolist() == [[1, 1]]
    assert metrics.compute_hits(judged, [1, 3]).tolist() == [[1.0, 1.0]]
    assert metrics.compute_recalls(judged, [1, 3]).tolist() == [[0.5, 0.5]]


def test_no_pair_gives_no_query():
    vectors, none = unit(np.ones((2, 3))), np.zeros(0, np.int64)
    judged = metrics.judge_queries(RetrievalTask(vectors, vectors, none, none), KS)
    assert [len(field) for field in judged] == [0, 0, 0, 0]
    assert judged.found.shape == (0, 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.data())
def test_chance_is_what_all_rankings_get_on_average(gallery, data):
    true_items = np.array(data.draw(st.lists(st.integers(1, gallery), min_size=1, max_size=3)))
    ks = sorted(data.draw(st.sets(st.integers(1, gallery), min_size=1, max_size=3)))
    judged = metrics.Judged(np.arange(len(true_items)), true_items, true_items, true_items[:, None])
    found = metrics.compute_chances(judged, gallery, ks)
    for n, true in enumerate(true_items.tolist()):
        for column, k in enumerate(ks):
            by_hand = 1 - math.comb(gallery - true, k) / math.comb(gallery, k)
            assert found[n, column] == pytest.approx(by_hand, abs=1e-12)
