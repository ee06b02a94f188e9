"""Vectors go from disk to disk block by block, and come out as if all had been there at once."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.support.vectors import unit
from tuwen.core.errors import UserError
from tuwen.retrieval.quantised.codes import DTYPES, encode_vectors, write_codes
from tuwen.retrieval.vectors import Vectors
from tuwen.service.index.vector_files import COPIED_ROWS, StoredVectors, stream_stored, write_vectors

DIMENSIONS = 70  # no whole number of words of signs


def store(folder: Path, vectors: Vectors, rows: np.ndarray | None = None) -> StoredVectors:
    folder.mkdir()
    np.save(folder / "images.npy", vectors)
    kept = np.arange(len(vectors)) if rows is None else rows
    return StoredVectors(folder / "images.npy", folder / "images.parquet", len(vectors), kept)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_give_the_bytes_of_the_whole(tmp_path: Path, dtype: str) -> None:
    draw = np.random.default_rng(0)
    large, small = (unit(draw.normal(size=(count, DIMENSIONS))) for count in (2 * COPIED_ROWS + 5, 9))
    some = np.flatnonzero(draw.random(len(large)) < 0.9)
    none = np.empty((0, DIMENSIONS), np.float32)
    parts = [store(tmp_path / "1", none), store(tmp_path / "2", large, some), store(tmp_path / "3", small)]
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    whole = np.concatenate([large[some], small])
    assert write_vectors(ours, "images", parts, dtype) == whole.shape
    write_codes(theirs, "images", encode_vectors(whole, dtype))
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == names
    for name in names:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def test_vectors_of_two_bytes_are_read_too(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(20, DIMENSIONS))).astype(np.float16)
    (block,) = stream_stored(store(tmp_path / "1", vectors, np.array([3, 19])))
    assert block.dtype == np.float32
    assert np.array_equal(block, vectors[[3, 19]])


@pytest.mark.parametrize(("value", "words"), [(np.nan, "holds NaN"), (0, "is a zero vector"), (2, "has length")])
def test_a_faulty_vector_is_named_by_its_row(tmp_path: Path, value: float, words: str) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(COPIED_ROWS + 9, 4)))
    vectors[COPIED_ROWS + 7] = value
    with pytest.raises(UserError, match=rf"images\.npy: row {COPIED_ROWS + 7} {words}"):
        list(stream_stored(store(tmp_path / "1", vectors)))


def test_a_file_that_does_not_fit_its_table_is_refused(tmp_path: Path) -> None:
    good = store(tmp_path / "1", unit(np.ones((3, 4))))
    with pytest.raises(UserError, match="3 rows found, 4 expected"):
        list(stream_stored(good._replace(table_rows=4)))
    with pytest.raises(UserError, match="3 rows found, 0 expected"):
        list(stream_stored(good._replace(table_rows=0, rows=good.rows[:0])))
    with pytest.raises(UserError, match="float array"):
        list(stream_stored(store(tmp_path / "2", np.ones((3, 4), np.int64))))
    with pytest.raises(UserError, match="are missing"):
        list(stream_stored(good._replace(path=tmp_path / "none.npy")))
    good.path.write_bytes(b"no array")
    with pytest.raises(UserError, match="not a NumPy array"):
        list(stream_stored(good))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_memory_holds_a_few_blocks_whatever_there_is(tmp_path: Path, dtype: str) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(16 * COPIED_ROWS, 8)).astype(np.float32))
    stored, size = store(tmp_path / "1", vectors), vectors.nbytes
    del vectors
    tracemalloc.start()
    write_vectors(tmp_path, "images", [stored], dtype)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # the rows' numbers are as many bytes as a quarter of these few dimensions
    assert peak < 10 * size / 16
