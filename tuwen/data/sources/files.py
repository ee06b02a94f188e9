"""Files and folders of a source: their names, and the image files that its tables name."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tuwen.core.errors import UserError
from tuwen.core.progress import Extent
from tuwen.data.formats.image_files import FoundFile, ImageFiles
from tuwen.data.formats.text_files import Reading
from tuwen.data.sources.records import NoteRecord

Row = TypeVar("Row")


def make_relative(path: Path, root: Path) -> str:
    """Return `path` as seen from `root`, with / between folders."""
    return path.relative_to(root).as_posix()


def check_names(root: Path) -> None:
    """Raise UserError where a file or folder below `root` has a name that is not UTF-8."""
    for folder, folders, files in os.walk(root):
        for name in sorted(folders) + sorted(files):
            check_name(Path(folder) / name)


def check_name(path: Path) -> None:
    """Raise UserError where `path` is not UTF-8: no table, manifest or DVC file could name it."""
    try:
        path.as_posix().encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{str(path)!r}: the name is not UTF-8; rename it, and all like it, for names in GBK with "
            "`convmv -r -f gbk -t utf-8 --notest` and the folder"
        ) from None


def read_image_file(files: ImageFiles, name: str) -> tuple[bytes | None, FoundFile]:
    """Return the bytes of the file that `name` means, and what it means; None where it cannot be had.

    Raises UserError when the file cannot be read.
    """
    found = files.find(name)
    if found.path is None:
        return None, found
    try:
        with open(found.path, "rb") as file:
            return file.read(), found
    except OSError as error:
        raise UserError(
            f"{found.path}: cannot be read: {error.strerror}; mend the file or its permissions"
        ) from None


def make_notes(found: FoundFile, name: str) -> list[NoteRecord]:
    """Return what a person should know of a name that is not the file's own, or that several files fit."""
    return [NoteRecord(f"names read otherwise: {found.way}", name)] if found.way else []


def follow_rows(rows: Iterator[Row], extent: Extent, readings: Sequence[Reading]) -> Iterator[Row]:
    """Yield the rows of one table, counted; readings: the last says how many there are, where it is a text."""
    for number, row in enumerate(rows, 1):
        extent.done, extent.total = number, readings[-1].records if readings else extent.total
        yield row


def follow_bytes(rows: Iterator[Row], path: Path, extent: Extent, readings: Sequence[Reading]) -> Iterator[Row]:
    """Yield the rows of a text, and count its bytes evenly by them; readings: the last is of this text."""
    size, start = path.stat().st_size, extent.done
    for number, row in enumerate(rows, 1):
        extent.done = start + size * number // max(number, readings[-1].records)
        yield row
    extent.done = start + size


def measure_sizes(paths: Iterable[Path]) -> int:
    """Return how many bytes the files have."""
    return sum(path.stat().st_size for path in paths)
