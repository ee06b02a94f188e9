"""Unit vectors of a gallery as an index keeps them, by `embed.dtype`; a query's stay float32.

    float32  as they are
    float16  half the bytes, exact to the last of eleven bits
    int8     a quarter: the range of each dimension over the gallery, in 256 steps
    binary   int8, and beside it the signs alone, a 32nd, which are all that a search reads of every vector

int8's ranges and the signs are those of sentence-transformers' `quantize_embeddings`. Nothing finer is kept beside
them, since then nothing would be saved: candidates by signs are scored anew by the int8 vectors.
Shapes: N vectors, D dimensions, W words of 64 signs.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tuwen.retrieval.vectors import Rows, Vectors

Dtype = Literal["float32", "float16", "int8", "binary"]
DTYPES: tuple[Dtype, ...] = ("float32", "float16", "int8", "binary")
INT8_STEPS, LEAST_INT8 = 255, -128  # of an int8
SIGNS = 64  # in a word
Signs = npt.NDArray[np.uint64]


class Codes(NamedTuple):
    """Vectors as they are kept."""

    values: npt.NDArray[Any]  # [N, D] float32, float16 or int8
    scale: Vectors | None = None  # [2, D] of int8: what its least number stands for, and a step
    signs: Signs | None = None  # [W, N] of binary: word by word, so that a search reads each in one go


def encode_vectors(vectors: Vectors, dtype: Dtype) -> Codes:
    """Return unit vectors [N, D] as `dtype` keeps them."""
    if dtype == "float32":
        return Codes(vectors)
    if dtype == "float16":
        return Codes(vectors.astype(np.float16))
    least_D, most_D = vectors.min(axis=0), vectors.max(axis=0)
    step_D = np.where(most_D > least_D, (most_D - least_D) / INT8_STEPS, np.float32(1)).astype(np.float32)
    values = (np.rint((vectors - least_D) / step_D).clip(0, INT8_STEPS) + LEAST_INT8).astype(np.int8)
    return Codes(values, np.stack([least_D, step_D]), pack_signs(vectors) if dtype == "binary" else None)


def decode_vectors(codes: Codes, rows: Rows | slice = slice(None)) -> Vectors:
    """Return the vectors of these rows, float32; those of int8 and binary are not quite of length 1."""
    values: Vectors = np.asarray(codes.values[rows], np.float32)
    if codes.scale is not None:
        least_D, step_D = codes.scale
        values = least_D + (values - LEAST_INT8) * step_D
    return values


def pack_signs(vectors: Vectors) -> Signs:
    """Return which numbers are over 0, [W, N]; the last word is filled up with zeros."""
    padded = np.pad(vectors > 0, ((0, 0), (0, -vectors.shape[1] % SIGNS)))
    return np.ascontiguousarray(np.packbits(padded, axis=1).view(np.uint64).T)


def count_bytes(dtype: Dtype, dims: int) -> tuple[int, int]:
    """Return the bytes of a vector that a search reads, and those that are kept."""
    if dtype == "binary":
        signs = -(-dims // SIGNS) * SIGNS // 8
        return signs, signs + dims
    size = {"float32": 4, "float16": 2, "int8": 1}[dtype] * dims
    return size, size


def write_codes(folder: Path, name: str, codes: Codes) -> None:
    """Write `<name>.npy` into `folder`, and the parts that it has: `<name>.scale.npy` and `<name>.signs.npy`."""
    np.save(folder / f"{name}.npy", codes.values)
    for part in ("scale", "signs"):
        if (array := getattr(codes, part)) is not None:
            np.save(folder / f"{name}.{part}.npy", array)


def open_codes(folder: Path, name: str) -> Codes:
    """Map what `write_codes` wrote.

    Copied where it is written, which nobody does: torch knows no arrays that cannot be written.
    """
    paths = {part: folder / f"{name}.{part}.npy" for part in ("scale", "signs")}
    parts = {
        part: np.load(path, mmap_mode="c", allow_pickle=False) for part, path in paths.items() if path.exists()
    }
    return Codes(np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False), **parts)


def select_rows(codes: Codes, rows: Rows) -> Codes:
    """Return the vectors of these rows, in memory."""
    signs = None if codes.signs is None else np.ascontiguousarray(codes.signs[:, rows])
    return Codes(codes.values[rows], codes.scale, signs)
