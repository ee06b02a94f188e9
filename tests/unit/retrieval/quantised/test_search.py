"""First answers from fewer bytes: those of a plain sort of what is kept."""

import numpy as np
import pytest

from tests.support.vectors import unit
from tuwen.retrieval.quantised import search
from tuwen.retrieval.quantised.codes import decode_vectors, encode_vectors, pack_signs
from tuwen.retrieval.quantised.search import find_candidates, find_first

DRAW = np.random.default_rng(0)
GALLERY = unit(DRAW.normal(size=(300, 70)))
GALLERY[5] = GALLERY[2]  # equal ones stand in the order of the gallery
QUERIES = np.concatenate([GALLERY[[2, 9]], unit(DRAW.normal(size=(4, 70)))])


def sort_plainly(scores, k: int) -> list[list[int]]:
    return [np.lexsort((np.arange(len(row)), -row))[:k].tolist() for row in scores]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_answers_are_exact_over_what_is_kept(dtype) -> None:
    codes = encode_vectors(GALLERY, dtype)
    scores = QUERIES.astype(np.float64) @ decode_vectors(codes).astype(np.float64).T
    assert find_first(QUERIES, codes, 7).tolist() == sort_plainly(scores, 7)


def test_candidates_are_the_nearest_by_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SIGNS_AT_ONCE", 64)
    equal = ((QUERIES > 0)[:, None] == (GALLERY > 0)[None]).sum(axis=2)
    assert find_candidates(QUERIES, pack_signs(GALLERY), 50).tolist() == sort_plainly(equal, 50)


def test_binary_orders_its_candidates_by_their_int8_vectors() -> None:
    codes = encode_vectors(GALLERY, "binary")
    scores = QUERIES.astype(np.float64) @ decode_vectors(codes).astype(np.float64).T
    candidates = find_candidates(QUERIES, codes.signs, 4 * 7)
    left_out = np.ones_like(scores, bool)
    np.put_along_axis(left_out, candidates, False, axis=1)
    assert find_first(QUERIES, codes, 7).tolist() == sort_plainly(np.where(left_out, -2, scores), 7)
    assert find_first(QUERIES[:1], codes, 7)[0, :2].tolist() == [2, 5]
    assert find_first(QUERIES, codes, 100).shape == (6, 100)  # of 300 items there are no 400 candidates
