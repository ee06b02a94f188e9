"""Vectors in fewer bytes: how far they lie from what they were, and what they take."""

import numpy as np
import pytest

from tests.support.vectors import unit
from tuwen.retrieval.quantised.codes import DTYPES, count_bytes, decode_vectors, encode_vectors, pack_signs

VECTORS = unit(np.random.default_rng(0).normal(size=(200, 100)))


@pytest.mark.parametrize(
    ("dtype", "most"), [("float32", 0.0), ("float16", 2.0**-12), ("int8", 0.5), ("binary", 0.5)]
)
def test_a_vector_is_as_far_as_its_rounding(dtype, most: float) -> None:
    codes = encode_vectors(VECTORS, dtype)
    step = (VECTORS.max(axis=0) - VECTORS.min(axis=0)) / 255 if dtype in ("int8", "binary") else 1.0
    assert (np.abs(decode_vectors(codes) - VECTORS) / step).max() <= most * (1 + 1e-3)
    rows = np.array([7, 3])
    assert np.array_equal(decode_vectors(codes, rows), decode_vectors(codes)[rows])
    assert len(codes.values) == 200


def test_a_dimension_that_never_changes_is_kept() -> None:
    vectors = VECTORS.copy()
    vectors[:, 4] = 0.25
    assert np.allclose(decode_vectors(encode_vectors(vectors, "int8"))[:, 4], 0.25)


def test_signs_are_one_bit_each_and_the_last_word_is_filled_up() -> None:
    words = pack_signs(VECTORS)
    assert words.shape == (2, 200)
    bits = np.unpackbits(np.ascontiguousarray(words.T).view(np.uint8), axis=1)
    assert np.array_equal(bits[:, :100], VECTORS > 0)
    assert not bits[:, 100:].any()


def test_bytes_are_those_of_the_arrays() -> None:
    for dtype in DTYPES:
        codes = encode_vectors(VECTORS, dtype)
        kept = codes.values.nbytes + (codes.signs.nbytes if codes.signs is not None else 0)
        assert count_bytes(dtype, 100)[1] * 200 == kept
    assert count_bytes("binary", 100) == (16, 116)  # what a search reads, and what is kept
