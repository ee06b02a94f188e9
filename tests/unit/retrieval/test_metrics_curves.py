"""Curves over the gallery's size and AUC, against counting every case."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.vectors import unit
from tuwen.retrieval import metrics
from tuwen.retrieval.intervals import resampling
from tuwen.retrieval.vectors import RetrievalTask

KS = (1, 2, 3)


def by_every_smaller_gallery(queries, gallery, truth, size, k):
    """Mean over the queries of the share of galleries of `size` that hold all true items and put one among k."""
    chances = []
    for query, true in truth.items():
        others = [item for item in range(len(gallery)) if item not in true]
        scores = gallery.astype(np.float64) @ queries[query].astype(np.float64)
        hits = []
        for kept in itertools.combinations(others, max(0, size - len(true))):
            left = sorted([*true, *kept], key=lambda item: (-scores[item], item))
            hits.append(bool(true & set(left[:k])))
        chances.append(np.mean(hits))
    return np.mean(chances)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_curve_is_the_mean_over_every_smaller_gallery(seed):
    random = np.random.default_rng(seed)
    gallery, queries = unit(random.normal(size=(8, 3))), unit(random.normal(size=(5, 3)))
    truth = {
        query: set(random.choice(8, size=random.integers(1, 4), replace=False).tolist()) for query in range(5)
    }
    pairs = np.array([(query, item) for query, true in truth.items() for item in true])
    judged = metrics.judge_queries(RetrievalTask(queries, gallery, pairs[:, 0], pairs[:, 1]), KS)
    sizes = [3, 4, 6, 8]
    curve = metrics.compute_gallery_curve(judged, 8, sizes, KS)
    for row, size in enumerate(sizes):
        for column, k in enumerate(KS):
            expected = by_every_smaller_gallery(queries, gallery, truth, size, k)
            assert curve[row, column] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(curve[-1], metrics.compute_hits(judged, KS).mean(axis=0), atol=1e-12)


def test_a_curve_falls_with_the_gallery_and_keeps_its_digits_at_a_million():
    judged = metrics.Judged(np.arange(2), np.array([1, 1001]), np.array([1, 1]), np.zeros((2, 2), np.int64))
    curve = metrics.compute_gallery_curve(judged, 1_000_001, metrics.choose_gallery_sizes(1_000_001, 10), (1, 10))
    assert (np.diff(curve, axis=0) <= 1e-9).all()
    # of 1,000 drawn from 1,000,000 none among 1,000 ahead, factor by factor
    alone = math.prod((999_000 - n) / (1_000_000 - n) for n in range(999))
    at_1000 = metrics.compute_gallery_curve(judged, 1_000_001, [1000], (1,))[0, 0]
    assert at_1000 == pytest.approx((1 + alone) / 2, rel=1e-8)


def test_the_ladder_ends_with_the_whole_gallery():
    assert metrics.choose_gallery_sizes(632, 10) == [10, 20, 50, 100, 200, 500, 632]
    assert metrics.choose_gallery_sizes(50_000, 10)[-4:] == [5000, 10_000, 20_000, 50_000]
    assert {1000, 5000, 50_000} <= set(metrics.choose_gallery_sizes(50_000, 10))
    assert metrics.choose_gallery_sizes(7, 10) == [7]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({fits for _, fits in rows}) == 2
    )
)
def test_auc_is_the_share_of_pairs_of_pairs_in_order(rows):
    score, fits = np.array([float(value) for value, _ in rows]), np.array([fit for _, fit in rows])
    wins = [(a > b) + (a == b) / 2 for a in score[fits] for b in score[~fits]]
    assert metrics.compute_auc(score, fits) == pytest.approx(np.mean(wins), abs=1e-12)


def test_the_interval_of_auc_is_that_of_the_bootstrap_by_group():
    random = np.random.default_rng(2)
    fits = random.random(60) < 0.5
    score, groups = random.normal(size=60) + fits, random.integers(20, size=60)
    names = np.unique(groups)
    draws = np.random.default_rng(4).integers(len(names), size=(100, len(names)))
    drawn = []
    for draw in draws:
        rows = np.concatenate([np.flatnonzero(groups == names[group]) for group in draw])
        drawn.append(metrics.compute_auc(score[rows], fits[rows]))
    found = resampling.compute_auc_interval(score, fits, groups, 100, seed=4)
    np.testing.assert_allclose(found, np.quantile(drawn, resampling.INTERVAL), atol=1e-12)
