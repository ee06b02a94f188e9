from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.vectors import unit
from tuwen.core.errors import UserError
from tuwen.retrieval import search, shortlist


def naive_scores(queries, gallery):
    return (queries[:, None, :].astype(np.float64) * gallery[None]).sum(axis=-1)


def naive_order(queries, gallery):
    return np.argsort(-naive_scores(queries, gallery), axis=1, kind="stable")


@st.composite
def crowded(draw):
    """Queries and a gallery with equal and nearly equal rows, in odd shapes."""
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dimensions = draw(st.sampled_from([1, 3, 8, 65, 256]))
    originals = unit(noise.normal(size=(draw(st.integers(1, 12)), dimensions)))
    gallery = originals[noise.integers(len(originals), size=draw(st.integers(1, 40)))]
    gallery = unit(
        gallery + noise.choice([0, 1e-8, 1e-6], size=(len(gallery), 1)) * noise.normal(size=gallery.shape)
    )
    queries = unit(np.concatenate([noise.normal(size=(draw(st.integers(0, 6)), dimensions)), gallery[:2]]))
    return queries, gallery


@settings(max_examples=60, deadline=None)
@given(crowded(), st.data())
def test_equal_to_the_naive_float64_matrix_with_ties(vectors, data):
    queries, gallery = vectors
    k = data.draw(st.integers(1, len(gallery)))
    ids, scores = search.top_k(queries, gallery, k)
    order = naive_order(queries, gallery)
    assert ids.dtype == np.int64
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(ids, order[:, :k])
    expected = np.take_along_axis(naive_scores(queries, gallery), order[:, :k], axis=1)
    np.testing.assert_array_equal(scores, expected.astype(np.float32))

    query, item = (n.ravel() for n in np.indices((len(queries), len(gallery))))
    shuffled = np.random.default_rng(0).permutation(len(query))
    found = search.rank_items(queries, gallery, query[shuffled], item[shuffled])
    places = np.argsort(order, axis=1)  # the inverse permutation: place of each gallery row
    np.testing.assert_array_equal(found, places[query[shuffled], item[shuffled]] + 1)


@pytest.mark.gpu
def test_a_gpu_finds_what_the_naive_matrix_finds():
    test_equal_to_the_naive_float64_matrix_with_ties()


SIZES = {"GROUP": 4, "TILE_TEXTS": 8, "TILE_SCORES": 64, "CHUNK_MAXIMA": 16, "BATCH_GROUPS": 7}
KINDS = ("copies", "last bit", "clusters", "scaled", "wide", "opposite", "tiny")


def vectors_of(kind, noise, rows, dimensions):
    """Rows that low precision, or any, tells apart badly."""
    few = noise.normal(size=(max(1, rows // 6), dimensions))
    crowd = few[noise.integers(len(few), size=rows)].astype(np.float32)
    match kind:
        case "last bit":
            crowd = np.nextafter(crowd, noise.choice([-np.inf, np.inf], size=crowd.shape).astype(np.float32))
        case "clusters":
            crowd = crowd * (1 + noise.choice([1e-3, 1e-5, 1e-7]) * noise.normal(size=crowd.shape))
        case "scaled":  # one direction, lengths of powers of two and others
            crowd = crowd[:1] * noise.choice([1, 2, 1024, 1 / 3, 1e-4], size=(rows, 1))
        case "wide":  # lengths that a float32 product cannot multiply
            crowd = crowd * 10.0 ** noise.integers(-30, 31, size=(rows, 1))
        case "opposite":  # every score is negative
            crowd = np.abs(crowd) * (-1) ** noise.integers(2)
        case "tiny":  # numbers below what bf16 units flush to zero
            crowd = crowd * 10.0 ** noise.integers(-42, -36, size=crowd.shape)
    rows_ND = crowd.astype(np.float32)
    rows_ND[~rows_ND.any(axis=1)] = 1e-40
    return rows_ND


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # a score over float32's range
@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.data())
def test_both_directions_equal_the_naive_matrix(kind, bf16, seed, data):
    noise, dimensions = np.random.default_rng(seed), data.draw(st.sampled_from([1, 2, 7, 64]))
    images = vectors_of(kind, noise, data.draw(st.integers(1, 40)), dimensions)
    texts = vectors_of(
        data.draw(st.sampled_from([kind, "copies"])), noise, data.draw(st.integers(1, 40)), dimensions
    )
    k = data.draw(st.integers(1, min(len(images), len(texts))))
    with (
        patch.multiple(shortlist, **data.draw(st.sampled_from([SIZES, {"GROUP": 1}, {"GROUP": 32}]))),
        patch.object(search, "has_bf16", lambda where: bf16),
    ):
        found = search.top_k_both(images, texts, k)
        alone = search.top_k(images, texts, k)
    for (ids, scores), queries, gallery in zip(found, (images, texts), (texts, images), strict=True):
        order = naive_order(queries, gallery)[:, :k]
        np.testing.assert_array_equal(ids, order)
        expected = np.take_along_axis(naive_scores(queries, gallery), order, axis=1)
        np.testing.assert_array_equal(scores, expected.astype(np.float32))
    np.testing.assert_array_equal(alone[0], found[0][0])
    np.testing.assert_array_equal(alone[1], found[0][1])

    query, item = (n.ravel() for n in np.indices((len(images), len(texts))))
    places = np.argsort(naive_order(images, texts), axis=1)
    np.testing.assert_array_equal(search.rank_items(images, texts, query, item), places.ravel() + 1)


def test_many_groups_tiles_and_batches_at_their_real_sizes():
    noise = np.random.default_rng(5)
    images, texts = unit(noise.normal(size=(901, 16))), unit(noise.normal(size=(1234, 16)))
    texts[600:650] = texts[:50]
    with patch.multiple(shortlist, TILE_TEXTS=256, TILE_SCORES=1 << 14, BATCH_GROUPS=5000, CHUNK_MAXIMA=4000):
        (by_image, _), (by_text, _) = search.top_k_both(images, texts, 10)
    np.testing.assert_array_equal(by_image, naive_order(images, texts)[:, :10])
    np.testing.assert_array_equal(by_text, naive_order(texts, images)[:, :10])


def test_the_block_size_changes_nothing(monkeypatch):
    noise = np.random.default_rng(3)
    gallery = unit(noise.normal(size=(300, 32)))
    gallery[150:] = gallery[:150]  # every row twice
    queries = unit(noise.normal(size=(70, 32)))
    query, item = np.arange(70), noise.integers(300, size=70)
    whole = search.top_k(queries, gallery, 7), search.rank_items(queries, gallery, query, item)
    for scores, items, exact in ((1, 50, 3), (900, 300, 7), (5000, 64, 64)):  # one query at a time; three; 78
        monkeypatch.setattr(search, "BLOCK_SCORES", scores)
        monkeypatch.setattr(search, "BLOCK_ITEMS", items)
        monkeypatch.setattr(search, "EXACT_PAIRS", exact)
        ids, values = search.top_k(queries, gallery, 7)
        np.testing.assert_array_equal(ids, whole[0][0])
        np.testing.assert_array_equal(values, whole[0][1])
        np.testing.assert_array_equal(search.rank_items(queries, gallery, query, item), whole[1])


def test_equal_items_stand_in_gallery_order():
    gallery = unit(np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    ids, scores = search.top_k(gallery[1:2], gallery, 4)
    assert ids.tolist() == [[1, 2, 3, 0]]
    assert scores.tolist() == [[1.0, 1.0, 1.0, 0.0]]
    assert search.rank_items(gallery[1:2], gallery, np.array([0, 0]), np.array([3, 1])).tolist() == [3, 1]


def test_no_queries_give_no_rows():
    gallery = unit(np.ones((3, 4)))
    ids, scores = search.top_k(np.zeros((0, 4), np.float32), gallery, 2)
    assert ids.shape == scores.shape == (0, 2)


GOOD = unit(np.random.default_rng(0).normal(size=(6, 4)))


def spoilt(value):
    rows = GOOD.copy()
    rows[2] = value
    return rows


@pytest.mark.parametrize(
    ("queries", "gallery", "k", "message"),
    [
        (spoilt(np.nan), GOOD, 1, "queries: row 2 holds NaN or infinity"),
        (GOOD, spoilt(np.inf), 1, "gallery: row 2 holds NaN or infinity"),
        (GOOD, spoilt(0), 1, "gallery: row 2 is a zero vector"),
        (GOOD[:, :3], GOOD, 1, "queries have 3 dimensions, gallery 4"),
        (GOOD, GOOD[:0], 1, "gallery: empty"),
        (GOOD, GOOD, 7, "k must be 1 to 6, the rows of the gallery, got 7"),
        (GOOD, GOOD, 0, "k must be 1 to 6"),
        (GOOD[0], GOOD, 1, r"queries: float array \[rows, dimensions\] expected, got float32 \(4,\)"),
        (GOOD.astype(np.int64), GOOD, 1, "queries: float array .* expected, got int64"),
    ],
)
def test_bad_input_is_named(queries, gallery, k, message):
    with pytest.raises(UserError, match=message):
        search.top_k(queries, gallery, k)


@pytest.mark.parametrize(
    ("images", "texts", "k", "message"),
    [
        (spoilt(np.nan), GOOD, 1, "images: row 2 holds NaN or infinity"),
        (GOOD, spoilt(0), 1, "texts: row 2 is a zero vector"),
        (GOOD, GOOD[:, :3], 1, "images have 4 dimensions, texts 3"),
        (GOOD[:0], GOOD, 1, "images: empty"),
        (GOOD, GOOD[:0], 1, "texts: empty"),
        (GOOD[:3], GOOD, 4, "k must be 1 to 3, the rows of images, got 4"),
        (GOOD, GOOD[:3], 4, "k must be 1 to 3, the rows of texts, got 4"),
        (GOOD, GOOD.astype(np.float64), 1, "texts: float32 expected, got float64"),
    ],
)
def test_bad_input_of_both_directions_is_named(images, texts, k, message):
    with pytest.raises(UserError, match=message):
        search.top_k_both(images, texts, k)
