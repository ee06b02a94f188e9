"""The first pass of the exact store: what can be among a query's first k, by products that are a little wrong.

Bytes decide how long it takes, since every vector is read. So where the processor has instructions for it, the
pass multiplies int8 vectors, a quarter of float32's bytes: by int8 queries (VNNI), or by bf16 ones (AVX2, if the
dimensions are a multiple of 64). Elsewhere it is float32 by float32. All say how far their scores can be from the
true ones, so nothing is lost: exact.py takes all that can be among the first k, and scores it in float64.

The bound of int8. A vector y is kept as least + step (v + 128), v in int8 and `step` [D] by dimension as in
retrieval/quantised; x is a query, w = x step, and u [D] is w rounded: to int8 in a unit of the query's own, or to
bf16 in a unit of 1. The pass computes u v. Then x y / unit and u v differ by what is the same for every y, and by
at most

    |x| |y - least - step (v + 128)| / unit   measured where the int8 vectors are made of finer ones, else rounding
    + |w / unit - u| |v|                      Cauchy and Schwarz, with the largest |v|
    + 2^-22 128 sum |u|                       int8: what float32 loses of an integer u v, and of a threshold
    + (2^-8 + float32's error) |u| |v|        bf16: u v is summed in float32 and given in bf16

Shapes: Q queries, G items, B items of a block, D dimensions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tuwen.retrieval.quantised.codes import INT8_STEPS, LEAST_INT8, Codes, decode_vectors, select_rows
from tuwen.retrieval.vectors import UNIT_TOLERANCE, Floats, Rows, Vectors

BLOCK_ROWS = 1 << 13  # vectors of one product: 4 MB of int8 at 512 dimensions
MOST_INT8 = 127
BF16_ERROR = 2.0**-8  # of a number that is rounded to bf16, relative
BF16_DIMENSIONS = 64  # torch's kernel of int8 by bf16 reads so many at a time, past the end of any other number
NORM_ERROR = 2.0**-16  # more than float32 loses in the length of a vector
Int8s = npt.NDArray[np.int8]
# the scores [Q, B] of a block of items, in a unit of the pass's own, and how far each query's can be wrong [Q, 1]
BlockScores: TypeAlias = tuple[Callable[[slice], Tensor], Tensor]


@dataclass(frozen=True)
class FloatPass:
    """Float32 products of the vectors as they are kept."""

    codes: Codes

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self.codes.values)

    def select(self, rows: Rows) -> "FloatPass":
        """Return the pass over these items alone, in memory."""
        return FloatPass(select_rows(self.codes, rows))

    def score(self, queries: Vectors) -> BlockScores:
        """Return what scores a block of items; queries [Q, D], unit rows."""
        queries_QD = torch.from_numpy(queries)
        wrong = torch.full((len(queries), 1), bound_float_error(queries.shape[1]))
        return lambda block: queries_QD @ torch.from_numpy(decode_vectors(self.codes, block)).T, wrong


@dataclass(frozen=True)
class Int8Pass(ABC):
    """Products of int8 vectors."""

    values: Int8s  # [G, D]
    step: Vectors  # [D]
    lost: float  # the largest |y - least - step (v + 128)|
    longest: float  # the largest |v|

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self.values)

    def select(self, rows: Rows) -> Self:
        """Return the pass over these items alone, in memory."""
        return replace(self, values=self.values[rows])

    def score(self, queries: Vectors) -> BlockScores:
        """Return what scores a block of items; queries [Q, D], unit rows."""
        wide_QD = queries.astype(np.float64) * self.step
        unit_Q1, rounded_QD, multiply = self._round(wide_QD)
        wrong_Q = self.lost * np.linalg.norm(queries, axis=1) / unit_Q1[:, 0]
        wrong_Q += self.longest * np.linalg.norm(wide_QD / unit_Q1 - rounded_QD, axis=1)
        wrong_Q += self._bound_product(rounded_QD)
        wrong_Q *= 1 + NORM_ERROR
        return (
            lambda block: multiply(torch.from_numpy(self.values[block])),
            torch.from_numpy(wrong_Q.astype(np.float32))[:, None],
        )

    @abstractmethod
    def _round(self, wide_QD: Floats) -> tuple[Floats, Floats, Callable[[Tensor], Tensor]]:
        """Return the unit of scores [Q, 1], the rounded queries in it, and what multiplies them with [B, D]."""

    @abstractmethod
    def _bound_product(self, rounded_QD: Floats) -> Floats:
        """Return how wrong a product of these queries can be [Q]."""


class Int8ByInt8(Int8Pass):
    """By int8 queries, for processors with VNNI."""

    def _round(self, wide_QD: Floats) -> tuple[Floats, Floats, Callable[[Tensor], Tensor]]:
        unit_Q1 = np.abs(wide_QD).max(axis=1, keepdims=True) / MOST_INT8
        rounded_QD = np.rint(wide_QD / unit_Q1)
        rounded_DQ = torch.from_numpy(rounded_QD.astype(np.int8)).T.contiguous()
        return unit_Q1, rounded_QD, lambda values_BD: torch._int_mm(values_BD, rounded_DQ).T

    def _bound_product(self, rounded_QD: Floats) -> Floats:
        sum_Q: Floats = np.abs(rounded_QD).sum(axis=1)
        return 2.0**-22 * -LEAST_INT8 * sum_Q


class Int8ByBf16(Int8Pass):
    """By bf16 queries, for processors with AVX2: a quarter of float32's bytes all the same."""

    def _round(self, wide_QD: Floats) -> tuple[Floats, Floats, Callable[[Tensor], Tensor]]:
        bf16_QD = torch.from_numpy(wide_QD).bfloat16()
        ones_B = torch.ones(BLOCK_ROWS, dtype=torch.bfloat16)  # the kernel scales each vector's product

        def multiply(values_BD: Tensor) -> Tensor:
            return torch._weight_int8pack_mm(bf16_QD, values_BD, ones_B[: len(values_BD)])

        return np.ones((len(wide_QD), 1)), bf16_QD.double().numpy(), multiply

    def _bound_product(self, rounded_QD: Floats) -> Floats:
        length_Q: Floats = np.linalg.norm(rounded_QD, axis=1)
        return (BF16_ERROR + bound_float_error(rounded_QD.shape[1])) * self.longest * length_Q


def make_first_pass(codes: Codes, threads: Executor) -> FloatPass | Int8Pass:
    """Return the fastest first pass that this processor has for vectors as they are kept."""
    kind = _choose_int8_pass(codes.values.shape[1])
    if kind is None:
        return FloatPass(codes)
    if codes.scale is None:
        return kind(*_round_to_int8(codes, threads))
    longest = max(threads.map(lambda block: _measure_longest(codes.values[block]), list_blocks(len(codes.values))))
    return kind(codes.values, codes.scale[1], bound_decoding(*codes.scale), longest)


def _choose_int8_pass(dimensions: int) -> type[Int8Pass] | None:
    has = torch.cpu.get_capabilities()
    if has.get("avx512_vnni", False):
        return Int8ByInt8
    return Int8ByBf16 if has.get("avx2", False) and not dimensions % BF16_DIMENSIONS else None


def _round_to_int8(codes: Codes, threads: Executor) -> tuple[Int8s, Vectors, float, float]:
    """Round vectors to int8 as `encode_vectors` does, block by block; return what an Int8Pass holds."""
    blocks = list(list_blocks(len(codes.values)))

    def find_range(block: slice) -> tuple[Vectors, Vectors]:
        vectors_BD = decode_vectors(codes, block)
        return vectors_BD.min(axis=0), vectors_BD.max(axis=0)

    least, most = zip(*threads.map(find_range, blocks), strict=True)
    least_D = np.min(least, axis=0)
    step_D = (np.max(most, axis=0) - least_D) / np.float32(INT8_STEPS)
    step_D[step_D == 0] = 1
    values = np.empty(codes.values.shape, np.int8)

    def fill(block: slice) -> tuple[float, float]:
        vectors_BD = decode_vectors(codes, block)
        steps_BD = np.rint((vectors_BD - least_D) / step_D).clip(0, INT8_STEPS)
        values[block] = steps_BD + LEAST_INT8
        lost_BD = vectors_BD - (least_D + steps_BD * step_D)
        return float(np.linalg.norm(lost_BD, axis=1).max()), _measure_longest(values[block])

    lost, longest = (max(column) for column in zip(*threads.map(fill, blocks), strict=True))
    return values, step_D, lost + bound_decoding(least_D, step_D), longest


def _measure_longest(values_BD: Int8s) -> float:
    return float(np.linalg.norm(values_BD.astype(np.float32), axis=1).max())


def list_blocks(count: int) -> Iterator[slice]:
    """Yield the items of each block."""
    return (slice(start, start + BLOCK_ROWS) for start in range(0, count, BLOCK_ROWS))


def bound_decoding(least_D: Vectors, step_D: Vectors) -> float:
    """Return more than float32 can lose of any vector in least + step (v + 128)."""
    return 2.0**-22 * float(np.linalg.norm(np.abs(least_D) + (INT8_STEPS + 1) * step_D))


def bound_float_error(dimensions: int) -> float:
    """Return more than a float32 product of unit vectors can be wrong by (retrieval/shortlist.py).

    Twice that, since those of fewer bytes are not quite of length 1.
    """
    return 2 * (dimensions + 16) * 2.0**-23 * (1 + UNIT_TOLERANCE) ** 2
