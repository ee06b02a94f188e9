"""Which images and texts belong together: a CSV, or pairs.parquet of a set of ours.

Columns `image` and `text`, or `image_id` and `text_id`, one pair a line; a column `label` may say 0 where a text
is known not to fit. They hold the names of the rows: ids where there are any, else numbers from 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.data.formats.text_files import read_csv_rows
from tuwen.evaluation.external.arrays import ForeignArray
from tuwen.retrieval.vectors import Flags, Rows

COLUMNS = (("image", "text"), ("image_id", "text_id"))
SHOWN = 3  # unknown names in an error


class Labelled(NamedTuple):
    """Pairs of an image and a text, [P] each."""

    image: Rows  # row
    text: Rows  # row
    fits: Flags


def locate_relevance(path: Path) -> Path:
    """Return the table itself where a set's folder is named."""
    return path / "pairs.parquet" if path.is_dir() else path


def find_ids(relevance: Path, kind: str) -> Path | None:
    """Return the table of ours that names the rows; it lies beside pairs.parquet. None: they are numbered.

    kind: image or text.
    """
    table = relevance.with_name(f"{kind}s.parquet")
    return table if relevance.suffix.lower() == ".parquet" and table.is_file() else None


def read_relevance(path: Path, images: ForeignArray, texts: ForeignArray) -> Labelled:
    """Read the pairs of a relevance table.

    Raises UserError for other columns, a label that is not 0 or 1, a pair with both, no true pair, and names that
    are no row: the first ones and the number of them.
    """
    arrays = (images, texts)
    rows_of = [{name: row for row, name in enumerate(one.names)} for one in arrays]
    labels: dict[tuple[int, int], str] = {}
    unknown: list[str] = []
    for line, *names, label in _read_rows(path):
        pair = [rows.get(name, -1) for rows, name in zip(rows_of, names, strict=True)]
        if -1 in pair:
            missing = [(one, name) for one, name, row in zip(arrays, names, pair, strict=True) if row < 0]
            unknown += [_describe_unknown(line, one, name) for one, name in missing]
        elif labels.setdefault((pair[0], pair[1]), label) != label:
            raise UserError(f"{path}: line {line}: {names} has label 0 and 1; keep one of them")
    if unknown:
        more = f" (and {len(unknown) - SHOWN} more)" if len(unknown) > SHOWN else ""
        raise UserError(f"{path}: {'; '.join(unknown[:SHOWN])}{more}; give these vectors, or take the lines out")
    labelled = split_labels(labels)
    if not labelled.fits.any():
        raise UserError(f"{path}: no true pair, so there is no truth to measure by; add a line of label 1")
    return labelled


def split_labels(labels: Mapping[tuple[int, int], str]) -> Labelled:
    """Return image row and text row -> "0" or "1" as arrays."""
    rows_P2 = np.array(list(labels), np.int64).reshape(-1, 2)
    return Labelled(rows_P2[:, 0], rows_P2[:, 1], np.array([label == "1" for label in labels.values()], bool))


def _describe_unknown(line: int, one: ForeignArray, name: str) -> str:
    return f"line {line}: {one.kind} {name!r} is no row of {one.path}; {one.describe_names()}"


def _read_rows(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Yield (line number, image, text, label) of every row."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not path.stat().st_size:
        _choose_columns(path, [])
    columns: list[str] = []
    for line, row in pairs.stream_rows(path) if path.suffix.lower() == ".parquet" else read_csv_rows(path, ()):
        columns = columns or _choose_columns(path, list(row))
        image, text = (str(row[name]) for name in columns)
        given = row.get("label")
        label = "1" if given is None else str(given)
        if label not in ("0", "1"):
            raise UserError(f"{path}: line {line}: label {label!r}: 1 where the text fits the image, else 0")
        yield line, image, text, label


def _choose_columns(path: Path, found: Sequence[str]) -> list[str]:
    fitting = [names for names in COLUMNS if set(names) <= set(found)]
    if len(fitting) != 1:
        raise UserError(
            f"{path}: line 1: header image,text[,label] or image_id,text_id[,label] expected, "
            f"got {','.join(found)!r}"
        )
    return list(fitting[0])
