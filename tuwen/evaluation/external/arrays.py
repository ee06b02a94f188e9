"""Anybody's vectors, and the ids of their rows: lines of a text file, or a column of a Parquet table of ours."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.data.formats.text_files import open_text
from tuwen.evaluation.embedded_set import Groups
from tuwen.retrieval.vectors import Vectors, check_vectors

UNIT = 1e-6  # rows as near to length 1 as single precision stores them are taken as they are


class ForeignArray(NamedTuple):
    """The images or the texts."""

    kind: str  # "image" or "text"
    path: Path
    vectors: Vectors  # [rows, D], unit
    names: list[str]  # of the rows: ids, or row numbers
    groups: Groups  # [rows] what the bootstrap draws: those of our table, else each row for itself
    note: str  # what it holds, and what was done to it

    def describe_names(self) -> str:
        """Return the first and the last name, for an error."""
        return f"known are {self.names[0]!r} to {self.names[-1]!r}, in the order of the rows"


def read_array(kind: str, path: Path, ids: Path | None) -> ForeignArray:
    """Read the vectors in `path`, divided by their lengths, and the names of their rows; kind: image or text.

    ids: a text file, one a line, or images.parquet or texts.parquet of a set of ours. Raises UserError for what is
    no float matrix, NaN, zero vectors, an empty gallery, and ids that are doubled or of another number.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a NumPy array ({error}); write it with numpy.save") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: an archive of arrays; give one array, written with numpy.save")
    return make_array(kind, path, array, ids)


def make_array(kind: str, path: Path, vectors: Any, ids: Path | None = None) -> ForeignArray:
    """Return vectors as `read_array` does; `path` is what errors call them."""
    array = np.asarray(vectors)
    check_vectors(array, str(path))
    if not len(array):
        raise UserError(f"{path}: no rows, so this gallery is empty; embed something")
    lengths = np.linalg.norm(array.astype(np.float64), axis=1)
    what = f"{path}: {len(array)} {kind}s, {array.dtype}"
    if array.dtype == np.float32 and np.abs(lengths - 1).max() < UNIT:
        note = f"{what}, unit vectors"
    else:
        note = f"{what}, of length {lengths.min():.4g} to {lengths.max():.4g}: divided by it, a score is a cosine"
        array = array / lengths[:, None]
    names, groups = [str(row) for row in range(len(array))], np.arange(len(array))
    if ids is not None:
        names, groups = _read_table_ids(ids, kind) if ids.suffix.lower() == ".parquet" else _read_lines(ids)
        _check_ids(ids, names, path, len(array))
    return ForeignArray(kind, path, np.ascontiguousarray(array, np.float32), names, groups, note)


def _read_lines(path: Path) -> tuple[list[str], Groups]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with open_text(path, newline=None) as file:
        ids = [line.removesuffix("\n") for line in file]
    return ids, np.arange(len(ids))


def _read_table_ids(path: Path, kind: str) -> tuple[list[str], Groups]:
    """Return the ids and the split groups of a table of ours; texts take their group from their images."""
    table, column = pairs.read_table(path), f"{kind}_id"
    if column not in table.schema.names:
        raise UserError(f"{path}: no column {column}, found {table.schema.names}; name the table of the {kind}s")
    ids = table[column]
    groups = pc.coalesce(table["group"], ids) if "group" in table.schema.names else ids
    return [str(one) for one in ids.to_pylist()], groups.to_numpy(zero_copy_only=False)


def _check_ids(path: Path, ids: list[str], vectors: Path, rows: int) -> None:
    if len(ids) != rows:
        raise UserError(f"{path}: {len(ids)} lines, but {vectors} has {rows} rows; give each row its id")
    seen: dict[str, int] = {}
    for line, name in enumerate(ids, 1):
        if name in seen:
            raise UserError(f"{path}: line {line}: id {name!r} stands in line {seen[name]} too; make ids unique")
        seen[name] = line
