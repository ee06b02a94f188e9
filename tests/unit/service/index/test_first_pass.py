"""The first pass of the exact store: how wrong it is, and that it never says less than that."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.support.vectors import unit
from tuwen.retrieval.quantised.codes import Codes, Dtype, decode_vectors, encode_vectors
from tuwen.retrieval.vectors import Vectors
from tuwen.service.index import first_pass
from tuwen.service.index.first_pass import FloatPass, Int8Pass, make_first_pass

DRAW = np.random.default_rng(0)
needs_vnni = pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_vnni", False), reason="int8 products want a processor with VNNI"
)


def make(codes: Codes) -> FloatPass | Int8Pass:
    with ThreadPoolExecutor(2) as threads:
        return make_first_pass(codes, threads)


def spread() -> Vectors:
    """Unit vectors of dimensions that differ in spread and middle, as a model's do."""
    return unit(DRAW.normal(size=(300, 70)) * DRAW.exponential(size=70) + DRAW.normal(size=70))


def peaked() -> Vectors:
    """Unit vectors of one large number each, beside which int8 loses the others."""
    vectors = 1e-3 * DRAW.normal(size=(300, 70))
    vectors[np.arange(300), np.arange(300) % 70] = 1
    return unit(vectors)


def near() -> Vectors:
    """Copies that differ by less than int8 tells apart."""
    return unit(unit(DRAW.normal(size=(1, 70))) + 1e-4 * DRAW.normal(size=(300, 70)))


@needs_vnni
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("vectors", [spread(), peaked(), near(), np.eye(70, dtype=np.float32)])
def test_int8_scores_are_no_further_from_the_true_ones_than_it_says(
    vectors: Vectors, dtype: Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_pass, "BLOCK_ROWS", 64)
    codes, queries = encode_vectors(vectors, dtype), np.concatenate([vectors[:3], spread()[:3]])
    made = make(codes)
    assert isinstance(made, Int8Pass)
    score, wrong = made.score(queries)
    found = score(slice(None)).numpy()
    wide = queries.astype(np.float64) * made.step
    unit_of_scores = np.abs(wide).max(axis=1, keepdims=True) / 127
    true = queries.astype(np.float64) @ decode_vectors(codes).astype(np.float64).T / unit_of_scores
    apart = true - found  # the same number for all items of a query, but for the error
    assert ((apart.max(axis=1) - apart.min(axis=1)) <= 2 * wrong[:, 0].numpy()).all()
    rows = np.array([7, 0, 65])
    assert torch.equal(made.select(rows).score(queries)[0](slice(None)), score(slice(None))[:, rows])


@needs_vnni
def test_an_int8_index_is_multiplied_as_it_lies_and_loses_only_rounding() -> None:
    codes = encode_vectors(spread(), "int8")
    made = make(codes)
    assert isinstance(made, Int8Pass)
    assert made.values is codes.values
    rounded = make(Codes(spread()))
    assert isinstance(rounded, Int8Pass)
    assert made.lost < 1e-5 < rounded.lost < 0.05


def test_without_instructions_for_int8_products_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    vectors = spread()
    score, wrong = make(Codes(vectors)).score(vectors[:2])
    assert np.allclose(score(slice(10, 20)), vectors[:2] @ vectors[10:20].T, atol=1e-6)
    assert 0 < wrong[0] < 1e-4
