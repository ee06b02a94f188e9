"""The vectors of sets as they lie on disk -> those of an index, block by block: memory holds none of them whole.

What is written is what `encode_vectors` and `write_codes` of retrieval/quantised/codes.py make of all at once.
Shapes: N items, B items of a block, D dimensions.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tuwen.retrieval.quantised.codes import Codes, Dtype, encode_vectors
from tuwen.retrieval.vectors import UNIT_TOLERANCE, Rows, Vectors, read_vectors

COPIED_ROWS = 16_384


class StoredVectors(NamedTuple):
    """Unit vectors on disk, a row for each of a table, and which of them are wanted."""

    path: Path  # a .npy file
    table: Path  # a Parquet table of as many rows
    table_rows: int
    rows: Rows  # ascending


def stream_stored(stored: StoredVectors) -> Iterator[Vectors]:
    """Yield the wanted vectors, float32 [B, D], block by block. Raises UserError as `read_vectors` does."""
    for start in range(0, max(1, stored.table_rows), COPIED_ROWS):  # a file for no rows is looked at too
        block = _read_block(stored, start)
        first, last = np.searchsorted(stored.rows, (start, start + len(block)))
        yield block[stored.rows[first:last] - start].astype(np.float32, copy=False)


def _read_block(stored: StoredVectors, start: int) -> Vectors:
    """Return the rows of the file from `start` on, once they are known to be sound."""
    try:
        whole = np.load(stored.path, mmap_mode="r", allow_pickle=False)  # anew, or what was read would stay mapped
        if whole.shape == (stored.table_rows, *whole.shape[1:2]) and np.issubdtype(whole.dtype, np.floating):
            block: Vectors = np.array(whole[start : start + COPIED_ROWS])
            if (np.abs(np.linalg.norm(block, axis=1) - 1) <= UNIT_TOLERANCE).all():  # nor NaN
                return block
    except (ValueError, EOFError, OSError):
        pass
    read_vectors(stored.path, stored.table_rows, stored.table)  # says what is wrong, and in which row
    raise AssertionError(f"{stored.path}: found faulty by blocks and sound as a whole")


def write_vectors(out: Path, side: str, parts: Sequence[StoredVectors], dtype: Dtype) -> tuple[int, int]:
    """Write the vectors of all parts, one after another, as `dtype` keeps them; return their N and D.

    Raises UserError as `read_vectors` does.
    """
    range_2D = _find_range(parts) if dtype in ("int8", "binary") else None
    blocks = (_encode_block(block, dtype, range_2D) for part in parts for block in stream_stored(part))
    count, dimension, signs, codes = sum(len(part.rows) for part in parts), 0, [], Codes(np.empty(0))
    with (out / f"{side}.npy").open("wb") as file:
        for codes in blocks:
            if not dimension:
                dimension = codes.values.shape[1]
                header = np.lib.format.header_data_from_array_1_0(codes.values)
                np.lib.format.write_array_header_1_0(file, header | {"shape": (count, dimension)})
            assert codes.values.shape[1] == dimension, "vectors of one model"
            codes.values.tofile(file)
            if codes.signs is not None:
                signs.append(codes.signs)
    if codes.scale is not None:
        np.save(out / f"{side}.scale.npy", codes.scale)
    if signs:
        np.save(out / f"{side}.signs.npy", np.concatenate(signs, axis=1))
    return count, dimension


def _find_range(parts: Sequence[StoredVectors]) -> Vectors:
    """Return the least and the most of each dimension over all vectors, [2, D]."""
    blocks = (block for part in parts for block in stream_stored(part) if len(block))
    ranges = np.array([[block.min(axis=0), block.max(axis=0)] for block in blocks])
    return np.stack([ranges[:, 0].min(axis=0), ranges[:, 1].max(axis=0)])


def _encode_block(block_BD: Vectors, dtype: Dtype, range_2D: Vectors | None) -> Codes:
    """Return a block as `encode_vectors` keeps it among all vectors, whose range two rows more give it."""
    if range_2D is None:
        return encode_vectors(block_BD, dtype)
    values, scale, signs = encode_vectors(np.concatenate([block_BD, range_2D]), dtype)
    return Codes(values[:-2], scale, None if signs is None else signs[:, :-2])
