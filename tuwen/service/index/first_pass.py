"""The first pass of the exact store: what can be among a query's first k, by products that are a little wrong.

Bytes decide how long it takes, since every vector is read. So where the processor has instructions for them
(VNNI), the pass multiplies int8 vectors by int8 queries, a quarter of float32's bytes; elsewhere float32 by
float32. Both say how far their scores can be from the true ones, so nothing is lost: exact.py takes all that can
be among the first k, and scores it in float64.

The bound of int8. A vector y is kept as least + step (v + 128), v in int8 and `step` [D] by dimension as in
retrieval/quantised; x is a query, w = x step, and u [D] is w rounded to int8 in a unit of the query's own. The
pass computes u v. Then x y / unit and u v differ by what is the same for every y, and by at most

    |x| |y - least - step (v + 128)| / unit   measured where the int8 vectors are made of finer ones, else rounding
    + |w / unit - u| |v|                      Cauchy and Schwarz, with the largest |v|
    + 2^-22 128 sum |u|                       what float32 loses of an integer u v, and of a threshold

Shapes: Q queries, G items, B items of a block, D dimensions.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tuwen.retrieval.quantised.codes import INT8_STEPS, LEAST_INT8, Codes, decode_vectors, select_rows
from tuwen.retrieval.vectors import UNIT_TOLERANCE, Rows, Vectors

BLOCK_ROWS = 1 << 13  # vectors of one product: 4 MB of int8 at 512 dimensions
MOST_INT8 = 127
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
class Int8Pass:
    """Int8 products of int8 vectors."""

    values: Int8s  # [G, D]
    step: Vectors  # [D]
    lost: float  # the largest |y - least - step (v + 128)|
    longest: float  # the largest |v|

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self.values)

    def select(self, rows: Rows) -> "Int8Pass":
        """Return the pass over these items alone, in memory."""
        return replace(self, values=self.values[rows])

    def score(self, queries: Vectors) -> BlockScores:
        """Return what scores a block of items; queries [Q, D], unit rows."""
        wide_QD = queries.astype(np.float64) * self.step
        unit_Q1 = np.abs(wide_QD).max(axis=1, keepdims=True) / MOST_INT8
        wide_QD /= unit_Q1
        rounded_QD = np.rint(wide_QD)
        wrong_Q = self.lost * np.linalg.norm(queries, axis=1) / unit_Q1[:, 0]
        wrong_Q += self.longest * np.linalg.norm(wide_QD - rounded_QD, axis=1)
        wrong_Q += 2.0**-22 * -LEAST_INT8 * np.abs(rounded_QD).sum(axis=1)
        wrong_Q *= 1 + NORM_ERROR
        rounded_DQ = torch.from_numpy(rounded_QD.astype(np.int8)).T.contiguous()
        return (
            lambda block: torch._int_mm(torch.from_numpy(self.values[block]), rounded_DQ).T,
            torch.from_numpy(wrong_Q.astype(np.float32))[:, None],
        )


def make_first_pass(codes: Codes, threads: Executor) -> FloatPass | Int8Pass:
    """Return the fastest first pass that this processor has for vectors as they are kept."""
    if not torch.cpu.get_capabilities().get("avx512_vnni", False):
        return FloatPass(codes)
    if codes.scale is None:
        return _round_to_int8(codes, threads)
    longest = max(threads.map(lambda block: _measure_longest(codes.values[block]), list_blocks(len(codes.values))))
    return Int8Pass(codes.values, codes.scale[1], bound_decoding(*codes.scale), longest)


def _round_to_int8(codes: Codes, threads: Executor) -> Int8Pass:
    """Round vectors to int8 as `encode_vectors` does, block by block, and measure what each loses."""
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
    return Int8Pass(values, step_D, lost + bound_decoding(least_D, step_D), longest)


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
