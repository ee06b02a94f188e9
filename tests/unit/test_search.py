from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuwen import search
from tuwen.errors import UserError


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


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
    found = search.ranks(queries, gallery, query[shuffled], item[shuffled])
    places = np.argsort(order, axis=1)  # the inverse permutation: place of each gallery row
    np.testing.assert_array_equal(found, places[query[shuffled], item[shuffled]] + 1)


def test_the_block_size_changes_nothing(monkeypatch):
    noise = np.random.default_rng(3)
    gallery = unit(noise.normal(size=(300, 32)))
    gallery[150:] = gallery[:150]  # every row twice
    queries = unit(noise.normal(size=(70, 32)))
    query, item = np.arange(70), noise.integers(300, size=70)
    whole = search.top_k(queries, gallery, 7), search.ranks(queries, gallery, query, item)
    for scores, exact in ((1, 1), (900, 7), (5000, 64)):  # one query at a time; three; sixteen
        monkeypatch.setattr(search, "BLOCK_SCORES", scores)
        monkeypatch.setattr(search, "EXACT_PAIRS", exact)
        ids, values = search.top_k(queries, gallery, 7)
        np.testing.assert_array_equal(ids, whole[0][0])
        np.testing.assert_array_equal(values, whole[0][1])
        np.testing.assert_array_equal(search.ranks(queries, gallery, query, item), whole[1])


def test_equal_items_stand_in_gallery_order():
    gallery = unit(np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    ids, scores = search.top_k(gallery[1:2], gallery, 4)
    assert ids.tolist() == [[1, 2, 3, 0]]
    assert scores.tolist() == [[1.0, 1.0, 1.0, 0.0]]
    assert search.ranks(gallery[1:2], gallery, np.array([0, 0]), np.array([3, 1])).tolist() == [3, 1]


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


def test_read_vectors_gives_what_was_saved(tmp_path: Path):
    np.save(tmp_path / "images.npy", GOOD)
    found = search.read_vectors(tmp_path / "images.npy", 6, Path("images.parquet"))
    np.testing.assert_array_equal(found, GOOD)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (GOOD[:5], r"images\.npy: 5 rows found, 6 expected, one per row of clean/images\.parquet"),
        (spoilt(np.nan), r"images\.npy: row 2 holds NaN"),
        (spoilt(0), r"images\.npy: row 2 is a zero vector"),
        (spoilt(1), r"images\.npy: row 2 has length 2, not 1"),
        (GOOD[0], r"images\.npy: float array .* expected, got float32 \(4,\)"),
    ],
)
def test_unsound_files_are_named(tmp_path: Path, rows, message):
    np.save(tmp_path / "images.npy", rows)
    with pytest.raises(UserError, match=message):
        search.read_vectors(tmp_path / "images.npy", 6, Path("clean/images.parquet"))


def test_missing_and_broken_files_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"texts\.npy: these embeddings are missing; run `dvc repro`"):
        search.read_vectors(tmp_path / "texts.npy", 6, Path("texts.parquet"))
    (tmp_path / "texts.npy").write_bytes(b"not an array")
    with pytest.raises(UserError, match=r"texts\.npy: not a NumPy array"):
        search.read_vectors(tmp_path / "texts.npy", 6, Path("texts.parquet"))
