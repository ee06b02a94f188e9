import math

import numpy as np
import pytest
import scipy.stats
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


def naive_interval(values, groups, samples, seed):
    """Draw groups and average their queries, one sample after the other, with the same random numbers."""
    names = sorted(set(groups))
    draws = np.random.default_rng(seed).integers(len(names), size=(samples, len(names)))
    means = []
    for draw in draws:
        taken = [value for g in draw for value, group in zip(values, groups, strict=True) if group == names[g]]
        means.append(sum(taken) / len(taken))
    return np.quantile(means, [0.025, 0.975])


def test_intervals_equal_the_naive_bootstrap_by_group():
    noise = np.random.default_rng(5)
    values = np.column_stack([noise.integers(2, size=40), noise.random(40)]).astype(float)
    groups = np.array([f"g{n}" for n in noise.integers(12, size=40)])
    found = metrics.compute_intervals(values, groups, 200, seed=9)
    for column in range(2):
        np.testing.assert_allclose(found[column], naive_interval(values[:, column], groups, 200, 9), atol=1e-12)


def test_intervals_repeat_and_are_as_wide_as_the_groups_make_them():
    values = np.repeat([1.0, 0.0], 50)[:, None]
    own, shared = np.arange(100), np.arange(100) // 10
    once = metrics.compute_intervals(values, own, 500, seed=1)
    np.testing.assert_array_equal(once, metrics.compute_intervals(values, own, 500, seed=1))
    low, high = once[0]
    assert low < 0.5 < high
    # mean of 100 independent coins: 1.96 * 0.05 on either side
    assert high - low == pytest.approx(0.196, abs=0.03)
    wide = metrics.compute_intervals(values, shared, 500, seed=1)[0]
    assert wide[1] - wide[0] > 2.5 * (high - low)  # ten groups of ten: sqrt(10) wider


def test_a_value_that_is_missing_counts_neither_in_the_mean_nor_in_its_interval():
    noise = np.random.default_rng(6)
    groups = noise.integers(15, size=60)
    both = np.full((60, 2), np.nan)
    both[:40, 0], both[40:, 1] = noise.random(40), noise.random(20)
    found = metrics.bootstrap(both, groups, 300, seed=3)
    draws = np.random.default_rng(3).integers(15, size=(300, len(set(groups))))
    assert len(set(groups)) == 15
    for column, rows in enumerate((slice(0, 40), slice(40, 60))):
        for draw, mean in zip(draws, found[:, column], strict=True):
            taken = np.concatenate([both[rows, column][groups[rows] == group] for group in draw])
            assert mean == pytest.approx(taken.mean())


def test_draws_in_portions_are_as_sound_as_at_once(monkeypatch):
    values = np.random.default_rng(2).integers(2, size=(60, 1)).astype(float)
    groups = np.arange(60)
    whole = metrics.compute_intervals(values, groups, 2000, seed=0)
    monkeypatch.setattr(metrics, "DRAWS_AT_ONCE", 60 * 7)
    np.testing.assert_allclose(metrics.compute_intervals(values, groups, 2000, seed=0), whole, atol=0.02)


def test_paired_interval_is_narrower_than_the_models_own():
    noise = np.random.default_rng(4)
    first = noise.integers(2, size=(200, 1)).astype(float)
    second = np.maximum(first, noise.random((200, 1)) < 0.2)  # never worse, sometimes better
    low, high = metrics.compute_paired_intervals(first, second, np.arange(200), 1000, seed=0)[0]
    gain = (second - first).mean()
    assert 0 < low < gain < high
    alone = metrics.compute_intervals(first, np.arange(200), 1000, seed=0)[0]
    assert high - low < alone[1] - alone[0]


def test_none_of_139_is_not_none_for_certain_nor_all_of_them_all():
    """Where the bootstrap sees no spread, the interval is Clopper and Pearson's on the number of groups."""
    groups = np.repeat(np.arange(139), 2)
    values = np.column_stack([np.zeros(278), np.ones(278)])
    found = metrics.compute_intervals(values, groups, 500, seed=0)
    for column, right in enumerate((0, 139)):
        exact = scipy.stats.binomtest(right, 139).proportion_ci(0.95, "exact")
        assert found[column].tolist() == pytest.approx([exact.low, exact.high], abs=1e-12)
    assert found[0][1] == pytest.approx(0.0262, abs=1e-4)


def test_two_models_that_answer_all_alike_may_still_differ():
    same = np.random.default_rng(0).integers(2, size=(139, 1)).astype(float)
    low, high = metrics.compute_paired_intervals(same, same, np.arange(139), 500, seed=0)[0]
    unseen = scipy.stats.binomtest(0, 139).proportion_ci(0.95, "exact").high
    assert (low, high) == pytest.approx((-unseen, unseen))
    none, all_of_them = np.zeros((20, 1)), np.ones((20, 1))
    low, high = metrics.compute_paired_intervals(none, all_of_them, np.arange(20), 500, seed=0)[0]
    assert (low, high) == pytest.approx((1 - 2 * scipy.stats.binomtest(0, 20).proportion_ci().high, 1))


def test_a_perfect_auc_is_not_perfect_for_certain():
    score, fits = np.array([0.9, 0.8, 0.7, 0.2, 0.1]), np.array([True, True, True, False, False])
    low, high = metrics.compute_auc_interval(score, fits, np.arange(5), 500, seed=0)
    assert (low, high) == pytest.approx((1 - scipy.stats.binomtest(0, 2).proportion_ci().high, 1))


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
