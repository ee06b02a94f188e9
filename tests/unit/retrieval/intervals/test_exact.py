import numpy as np
import pytest
from scipy.stats import binomtest

from tuwen.retrieval.intervals import exact, resampling


def make_values(hits: int, groups: int = 139) -> np.ndarray:
    """Return hits and misses [G, 1] of which each group has one."""
    return (np.arange(groups) < hits).astype(float)[:, None]


@pytest.mark.parametrize("hits", [0, 1, 2, 4, 135, 138, 139])
def test_few_hits_or_misses_have_the_interval_of_clopper_and_pearson(hits):
    found = resampling.compute_intervals(make_values(hits), np.arange(139), 500, seed=0)[0]
    exact = binomtest(hits, 139).proportion_ci(0.95, "exact")
    assert found.tolist() == pytest.approx([exact.low, exact.high], abs=1e-9)


@pytest.mark.parametrize("hits", [5, 30, 70, 134])
def test_enough_hits_and_misses_keep_the_interval_of_the_bootstrap_to_the_last_bit(hits):
    values, groups = make_values(hits), np.arange(139)
    drawn = resampling.compute_ends(resampling.bootstrap(values, groups, 500, seed=0))
    np.testing.assert_array_equal(resampling.compute_intervals(values, groups, 500, seed=0), drawn)


def test_hits_are_counted_in_groups_which_are_what_is_drawn():
    values, groups = np.repeat(make_values(3), 4, axis=0), np.repeat(np.arange(139), 4)  # 12 of 556 queries
    found = resampling.compute_intervals(values, groups, 500, seed=0)[0]
    due = binomtest(3, 139).proportion_ci(0.95, "exact")
    assert found.tolist() == pytest.approx([due.low, due.high], abs=1e-9)
    values[::4] = 0  # three quarters of the queries of three groups
    part = exact.compute_clopper_pearson(np.array(2.25), np.array(139))
    assert resampling.compute_intervals(values, groups, 500, seed=0)[0].tolist() == pytest.approx(part.tolist())


@pytest.mark.parametrize(("better", "worse", "sure"), [(5, 0, 0), (6, 0, 1), (0, 5, 0), (0, 6, -1), (2, 1, 0)])
def test_a_difference_in_few_groups_is_as_sure_as_a_sign_test(better, worse, sure):
    first, second = make_values(139 - better)[::-1], make_values(139 - worse)
    low, high = resampling.compute_paired_intervals(first, second, np.arange(139), 2000, seed=0)[0]
    assert int(low > 0) - int(high < 0) == sure
    assert (binomtest(better, better + worse).pvalue < 0.05) == bool(sure)
    assert low <= (better - worse) / 139 <= high


def test_a_group_that_hits_in_part_is_no_group_without_a_hit():
    values, groups = np.random.default_rng(5).random((40, 1)), np.arange(40) % 8
    drawn = resampling.compute_ends(resampling.bootstrap(values, groups, 500, seed=0))
    np.testing.assert_array_equal(resampling.compute_intervals(values, groups, 500, seed=0), drawn)


def test_a_mean_of_metrics_with_few_hits_is_exact_too():
    spread = exact.measure_spread(np.hstack([make_values(1), make_values(3)]), np.arange(139), np.zeros(2))
    mean = exact.extend_by_mean(spread, [0, 1])
    ends, is_exact = exact.replace_ends(np.full((3, 2), 0.5), mean)
    due = binomtest(2, 139).proportion_ci(0.95, "exact")
    assert ends[2].tolist() == pytest.approx([due.low, due.high], abs=1e-9)
    assert is_exact.tolist() == [True, True, True]


def test_at_the_true_share_the_exact_interval_covers_and_that_of_the_bootstrap_does_not():
    """Of 139 groups with a true share of 2 %, how often the interval holds it: the exact one in 95 % at least."""
    hits = np.random.default_rng(0).binomial(139, 0.02, size=4000)
    by_hits = {
        n: (resampling.compute_intervals(make_values(n), np.arange(139), 2000, seed=1)[0],
            resampling.compute_ends(resampling.bootstrap(make_values(n), np.arange(139), 2000, seed=1))[0])
        for n in np.unique(hits)
    }  # fmt: skip
    covered = [np.mean([by_hits[n][way][0] <= 0.02 <= by_hits[n][way][1] for n in hits]) for way in (0, 1)]
    assert covered[0] >= 0.95
    assert covered[1] < 0.94
