"""Files of vectors are read as they were saved, or refused by their place."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.support.vectors import unit
from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.retrieval import vectors

GOOD = unit(np.random.default_rng(0).normal(size=(6, 4)))


def spoilt(value):
    rows = GOOD.copy()
    rows[2] = value
    return rows


def test_read_vectors_gives_what_was_saved(tmp_path: Path):
    np.save(tmp_path / "images.npy", GOOD)
    found = vectors.read_vectors(tmp_path / "images.npy", 6, Path("images.parquet"))
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
        vectors.read_vectors(tmp_path / "images.npy", 6, Path("clean/images.parquet"))


def test_missing_and_broken_files_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"texts\.npy: these embeddings are missing; run `dvc repro`"):
        vectors.read_vectors(tmp_path / "texts.npy", 6, Path("texts.parquet"))
    (tmp_path / "texts.npy").write_bytes(b"not an array")
    with pytest.raises(UserError, match=r"texts\.npy: not a NumPy array"):
        vectors.read_vectors(tmp_path / "texts.npy", 6, Path("texts.parquet"))


def test_a_sets_vectors_have_a_row_for_each_row_of_its_tables(tmp_path: Path):
    images = pa.Table.from_pylist([{"image_id": "图"}], pairs.IMAGES)
    texts = pa.Table.from_pylist([{"text_id": f"文{n}"} for n in range(2)], pairs.TEXTS)
    pair_set = pairs.PairSet(images, texts, pairs.PAIRS.empty_table())
    np.save(tmp_path / "images.npy", GOOD[:1])
    np.save(tmp_path / "texts.npy", GOOD[1:3])
    found = vectors.read_set_vectors(tmp_path, Path("clean/test"), pair_set)
    np.testing.assert_array_equal(np.concatenate(found), GOOD[:3])
    np.save(tmp_path / "texts.npy", GOOD[:3])
    with pytest.raises(UserError, match=r"texts\.npy: 3 rows found, 2 expected, .* of clean/test/texts\.parquet"):
        vectors.read_set_vectors(tmp_path, Path("clean/test"), pair_set)
