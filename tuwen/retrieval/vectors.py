"""Arrays of unit vectors: their types, how they are read and checked, and a retrieval task, whose truth is known.

Needs NumPy alone, so that what ranks and measures can be used on a bare machine.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tuwen.core.errors import UserError

if TYPE_CHECKING:
    from tuwen.data.formats.pairs import PairSet

Vectors = npt.NDArray[np.float32]  # [N, D]
Rows = npt.NDArray[np.int64]  # row numbers, ranks and counts
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

UNIT_TOLERANCE = 1e-3


class RetrievalTask(NamedTuple):
    """Queries, the gallery that they search, and the true pairs; Q queries, G items, D dimensions, P pairs."""

    queries: Vectors  # [Q, D]
    gallery: Vectors  # [G, D]
    query: Rows  # [P] gallery row item[p] is true for query row query[p]; a pair given twice counts once
    item: Rows  # [P]


def read_set_vectors(embedded: Path, folder: Path, pair_set: "PairSet") -> tuple[Vectors, Vectors]:
    """Read the vectors of one set: images [I, D], texts [T, D], in the row order of its tables.

    embedded: folder that holds `images.npy` and `texts.npy`; folder: that of the tables. Raises UserError as
    `read_vectors`.
    """
    return (
        read_vectors(embedded / "images.npy", pair_set.images.num_rows, folder / "images.parquet"),
        read_vectors(embedded / "texts.npy", pair_set.texts.num_rows, folder / "texts.parquet"),
    )


def read_vectors(path: Path, rows: int, table: Path) -> Vectors:
    """Read unit vectors [rows, D] from a `.npy` file; `table` is the Parquet table whose rows they stand for.

    Raises UserError when the file is missing or not a float matrix, when it has another number of rows than
    the table, and for NaN, infinity, zero vectors and vectors that are not of length 1.
    """
    try:
        vectors = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: these embeddings are missing; run `dvc repro`") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a NumPy array ({error}); remove it and run `dvc repro`") from None
    if vectors.ndim == 2 and len(vectors) != rows:
        raise UserError(
            f"{path}: {len(vectors)} rows found, {rows} expected, one per row of {table}; embed again: `dvc repro`"
        )
    check_vectors(vectors, str(path))
    lengths = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(np.abs(lengths - 1) > UNIT_TOLERANCE)
    if len(wrong):
        raise UserError(
            f"{path}: row {wrong[0]} has length {lengths[wrong[0]]:.4g}, not 1; divide each row by its length"
        )
    return np.ascontiguousarray(vectors, dtype=np.float32)


def check_vectors(vectors: npt.NDArray[Any], place: str) -> None:
    """Raise UserError, naming `place`, unless `vectors` is a float matrix [N, D], all finite, no row zero."""
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise UserError(f"{place}: float array [rows, dimensions] expected, got {vectors.dtype} {vectors.shape}")
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise UserError(f"{place}: row {broken[0]} holds NaN or infinity; embed again from a sound model")
    zero = np.flatnonzero(~vectors.any(axis=1))
    if len(zero):
        raise UserError(f"{place}: row {zero[0]} is a zero vector, which has no cosine; embed again")
