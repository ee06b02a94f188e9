"""Tables of pairs as people write them: a CSV, or Parquet such as a set's pairs.parquet, one pair a line.

A column names the image and one the text, or its caption; a column `label` may say 0 where they do not fit.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tuwen.core.errors import UserError
from tuwen.data.formats.text_files import read_csv_rows

BY_ID = (("image", "text"), ("image_id", "text_id"))  # columns that name a pair
BY_CAPTION = (("image", "caption"), ("image_id", "caption"))


class NamedPair(NamedTuple):
    """One line of such a table."""

    line: int
    image: str
    text: str  # its id, or its caption
    is_caption: bool
    fits: bool


def read_named_pairs(path: Path, columns: Sequence[tuple[str, str]] = BY_ID) -> Iterator[NamedPair]:
    """Yield the pairs of a table in order; of `columns`, the first two that it has name image and text.

    Raises UserError for a table that is missing, is empty or has none of the columns or two for one thing, and for
    a label that is not 0 or 1.
    """
    if path.is_file() and not path.stat().st_size:
        _choose_columns(path, columns, [])
    chosen: tuple[str, str] | None = None
    for line, row in read_rows(path):
        image, text = chosen = chosen or _choose_columns(path, columns, list(row))
        label = row.get("label")
        if label not in (None, "", 0, 1, "0", "1"):
            raise UserError(f"{path}: line {line}: label {label!r}: 1 where the text fits the image, else 0")
        first, second = ("" if row[name] is None else str(row[name]) for name in (image, text))
        yield NamedPair(line, first, second, is_caption=text == "caption", fits=str(label) != "0")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line or row, column -> value) of a CSV or Parquet table. Raises UserError where it is missing."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a CSV or Parquet table")
    if path.suffix.lower() != ".parquet":
        return read_csv_rows(path, ())
    from tuwen.data.formats import pairs  # not needed on a bare machine

    return pairs.stream_rows(path)


def _choose_columns(path: Path, columns: Sequence[tuple[str, str]], found: Sequence[str]) -> tuple[str, str]:
    fitting = [names for names in columns if set(names) <= set(found)]
    if not fitting or len({image for image, _ in fitting}) > 1:
        headers = " or ".join(f"{','.join(names)}[,label]" for names in columns)
        raise UserError(f"{path}: line 1: header {headers} expected, got {','.join(found)!r}; rename the columns")
    return fitting[0]
