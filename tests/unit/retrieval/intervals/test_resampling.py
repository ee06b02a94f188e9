import numpy as np
import pytest
import scipy.stats

from tuwen.retrieval.intervals import resampling


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
    found = resampling.compute_intervals(values, groups, 200, seed=9)
    for column in range(2):
        np.testing.assert_allclose(found[column], naive_interval(values[:, column], groups, 200, 9), atol=1e-12)


def test_intervals_repeat_and_are_as_wide_as_the_groups_make_them():
    values = np.repeat([1.0, 0.0], 50)[:, None]
    own, shared = np.arange(100), np.arange(100) // 10
    once = resampling.compute_intervals(values, own, 500, seed=1)
    np.testing.assert_array_equal(once, resampling.compute_intervals(values, own, 500, seed=1))
    low, high = once[0]
    assert low < 0.5 < high
    # mean of 100 independent coins: 1.96 * 0.05 on either side
    assert high - low == pytest.approx(0.196, abs=0.03)
    wide = resampling.compute_intervals(values, shared, 500, seed=1)[0]
    assert wide[1] - wide[0] > 2.5 * (high - low)  # ten groups of ten: sqrt(10) wider


def test_a_value_that_is_missing_counts_neither_in_the_mean_nor_in_its_interval():
    noise = np.random.default_rng(6)
    groups = noise.integers(15, size=60)
    both = np.full((60, 2), np.nan)
    both[:40, 0], both[40:, 1] = noise.random(40), noise.random(20)
    found = resampling.bootstrap(both, groups, 300, seed=3)
    draws = np.random.default_rng(3).integers(15, size=(300, len(set(groups))))
    assert len(set(groups)) == 15
    for column, rows in enumerate((slice(0, 40), slice(40, 60))):
        for draw, mean in zip(draws, found[:, column], strict=True):
            taken = np.concatenate([both[rows, column][groups[rows] == group] for group in draw])
            assert mean == pytest.approx(taken.mean())


def test_draws_in_portions_are_as_sound_as_at_once(monkeypatch):
    values = np.random.default_rng(2).integers(2, size=(60, 1)).astype(float)
    groups = np.arange(60)
    whole = resampling.compute_intervals(values, groups, 2000, seed=0)
    monkeypatch.setattr(resampling, "DRAWS_AT_ONCE", 60 * 7)
    np.testing.assert_allclose(resampling.compute_intervals(values, groups, 2000, seed=0), whole, atol=0.02)


def test_paired_interval_is_narrower_than_the_models_own():
    noise = np.random.default_rng(4)
    first = noise.integers(2, size=(200, 1)).astype(float)
    second = np.maximum(first, noise.random((200, 1)) < 0.2)  # never worse, sometimes better
    low, high = resampling.compute_paired_intervals(first, second, np.arange(200), 1000, seed=0)[0]
    gain = (second - first).mean()
    assert 0 < low < gain < high
    alone = resampling.compute_intervals(first, np.arange(200), 1000, seed=0)[0]
    assert high - low < alone[1] - alone[0]


def test_none_of_139_is_not_none_for_certain_nor_all_of_them_all():
    """Where the bootstrap sees no spread, the interval is Clopper and Pearson's on the number of groups."""
    groups = np.repeat(np.arange(139), 2)
    values = np.column_stack([np.zeros(278), np.ones(278)])
    found = resampling.compute_intervals(values, groups, 500, seed=0)
    for column, right in enumerate((0, 139)):
        exact = scipy.stats.binomtest(right, 139).proportion_ci(0.95, "exact")
        assert found[column].tolist() == pytest.approx([exact.low, exact.high], abs=1e-12)
    assert found[0][1] == pytest.approx(0.0262, abs=1e-4)


def test_two_models_that_answer_all_alike_may_still_differ():
    same = np.random.default_rng(0).integers(2, size=(139, 1)).astype(float)
    low, high = resampling.compute_paired_intervals(same, same, np.arange(139), 500, seed=0)[0]
    unseen = scipy.stats.binomtest(0, 139).proportion_ci(0.95, "exact").high
    assert (low, high) == pytest.approx((-unseen, unseen))
    none, all_of_them = np.zeros((20, 1)), np.ones((20, 1))
    low, high = resampling.compute_paired_intervals(none, all_of_them, np.arange(20), 500, seed=0)[0]
    assert (low, high) == pytest.approx((1 - 2 * scipy.stats.binomtest(0, 20).proportion_ci().high, 1))


def test_a_perfect_auc_is_not_perfect_for_certain():
    score, fits = np.array([0.9, 0.8, 0.7, 0.2, 0.1]), np.array([True, True, True, False, False])
    low, high = resampling.compute_auc_interval(score, fits, np.arange(5), 500, seed=0)
    assert (low, high) == pytest.approx((1 - scipy.stats.binomtest(0, 2).proportion_ci().high, 1))
