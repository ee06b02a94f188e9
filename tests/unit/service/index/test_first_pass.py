"""The first pass of the exact store: how wrong it is, and that it never says less than that."""

from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import pytest
import torch

from tests.support.vectors import unit
from tuwen.retrieval.quantised.codes import Codes, Dtype, decode_vectors, encode_vectors
from tuwen.retrieval.vectors import Floats, Vectors
from tuwen.service.index import first_pass
from tuwen.service.index.first_pass import (
    FloatPass,
    Int8ByBf16,
    Int8ByInt8,
    Int8Pass,
    list_blocks,
    make_first_pass,
)

DRAW = np.random.default_rng(0)


@pytest.fixture(params=[("avx512_vnni", Int8ByInt8), ("avx2", Int8ByBf16)], ids=["vnni", "avx2"])
def int8_pass(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Int8Pass]:
    """A pass that this processor can compute; it is made as if the processor had no other instructions."""
    instructions, kind = cast(tuple[str, type[Int8Pass]], request.param)
    if not torch.cpu.get_capabilities().get(instructions, False):
        pytest.skip(f"this processor has no {instructions}")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instructions: True})
    monkeypatch.setattr(first_pass, "BLOCK_ROWS", 50)
    return kind


def compute_scores(of: Int8Pass, queries: Vectors) -> Floats:
    score = of.score(queries)[0]
    return np.concatenate([score(block).double().numpy() for block in list_blocks(of.count)], axis=1)


def make(codes: Codes) -> FloatPass | Int8Pass:
    with ThreadPoolExecutor(2) as threads:
        return make_first_pass(codes, threads)


def spread() -> Vectors:
    """Unit vectors of dimensions that differ in spread and middle, as a model's do."""
    return unit(DRAW.normal(size=(300, 64)) * DRAW.exponential(size=64) + DRAW.normal(size=64))


def peaked() -> Vectors:
    """Unit vectors of one large number each, beside which int8 loses the others."""
    vectors = 1e-3 * DRAW.normal(size=(300, 64))
    vectors[np.arange(300), np.arange(300) % 64] = 1
    return unit(vectors)


def near() -> Vectors:
    """Copies that differ by less than int8 tells apart."""
    return unit(unit(DRAW.normal(size=(1, 64))) + 1e-4 * DRAW.normal(size=(300, 64)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("vectors", [spread(), peaked(), near(), np.eye(64, dtype=np.float32)])
def test_int8_scores_are_no_further_from_the_true_ones_than_it_says(
    vectors: Vectors, dtype: Dtype, int8_pass: type[Int8Pass]
) -> None:
    codes, queries = encode_vectors(vectors, dtype), np.concatenate([vectors[:3], spread()[:3]])
    made = make(codes)
    assert isinstance(made, int8_pass)
    found, (_, wrong) = compute_scores(made, queries), made.score(queries)
    wide = queries.astype(np.float64) * made.step
    unit_of_scores = np.abs(wide).max(axis=1, keepdims=True) / 127 if int8_pass is Int8ByInt8 else 1
    true = queries.astype(np.float64) @ decode_vectors(codes).astype(np.float64).T / unit_of_scores
    apart = true - found  # the same number for all items of a query, but for the error
    assert ((apart.max(axis=1) - apart.min(axis=1)) <= 2 * wrong[:, 0].numpy()).all()
    rows = np.array([7, 0, 63])
    assert np.array_equal(compute_scores(made.select(rows), queries), found[:, rows])


@pytest.mark.usefixtures("int8_pass")
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


def test_dimensions_that_the_kernel_would_read_past_are_multiplied_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert isinstance(make(Codes(unit(DRAW.normal(size=(9, 65))))), FloatPass)
