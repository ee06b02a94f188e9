"""Which images and texts belong together: a CSV, or pairs.parquet of a set of ours.

Columns `image` and `text`, or `image_id` and `text_id`, one pair a line; a column `label` may say 0 where a text
is known not to fit. They hold the names of the rows: ids where there are any, else numbers from 0.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.data.formats.pair_tables import read_named_pairs
from tuwen.evaluation.external.arrays import ForeignArray
from tuwen.retrieval.vectors import Flags, Rows

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
    labels: dict[tuple[int, int], bool] = {}
    unknown: list[str] = []
    for line, *names, _, fits in read_named_pairs(path):
        pair = [rows.get(name, -1) for rows, name in zip(rows_of, names, strict=True)]
        if -1 in pair:
            missing = [(one, name) for one, name, row in zip(arrays, names, pair, strict=True) if row < 0]
            unknown += [_describe_unknown(line, one, name) for one, name in missing]
        elif labels.setdefault((pair[0], pair[1]), fits) != fits:
            raise UserError(f"{path}: line {line}: {names} has label 0 and 1; keep one of them")
    if unknown:
        more = f" (and {len(unknown) - SHOWN} more)" if len(unknown) > SHOWN else ""
        raise UserError(f"{path}: {'; '.join(unknown[:SHOWN])}{more}; give these vectors, or take the lines out")
    labelled = split_labels(labels)
    if not labelled.fits.any():
        raise UserError(f"{path}: no true pair, so there is no truth to measure by; add a line of label 1")
    return labelled


def split_labels(labels: Mapping[tuple[int, int], bool]) -> Labelled:
    """Return (image row, text row) -> whether they fit as arrays."""
    rows_P2 = np.array(list(labels), np.int64).reshape(-1, 2)
    return Labelled(rows_P2[:, 0], rows_P2[:, 1], np.array(list(labels.values()), bool))


def _describe_unknown(line: int, one: ForeignArray, name: str) -> str:
    return f"line {line}: {one.kind} {name!r} is no row of {one.path}; {one.describe_names()}"
