"""Bytes that are not of the encoding that the rest of a file is in: named by line, place and value."""

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from tuwen.core.errors import UserError
from tuwen.data.formats.foreign_text.plausibility import score_text

CHUNK_BYTES = 1 << 20
MAX_LINES_NAMED = 5


def find_wrong_byte(file: BinaryIO, encoding: str, start: int = 0) -> int | None:
    """Return the offset of the first byte from `start` on that is not of `encoding`, None when all are."""
    decoder, done = codecs.getincrementaldecoder(encoding)(), start
    file.seek(start)
    while True:
        chunk = file.read(CHUNK_BYTES)
        state = decoder.getstate()[0]
        try:
            decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            return done - len(state) + error.start
        if not chunk:
            return None
        done += len(chunk)


def refuse_wrong_bytes(file: BinaryIO, place: str, name: str, start: int, remedy: str) -> None:
    """Raise UserError that names the first bytes that are not of the encoding that the file is in."""
    offset = find_wrong_byte(file, name, start)
    if offset is None:
        return
    line = _count_lines(file, name, start, offset) + 1
    gb18030 = find_wrong_byte(file, "gb18030") if name == "utf-8" else None
    neither = (
        "" if gb18030 is None else f"neither utf-8 (byte {offset}) nor gb18030 (byte {gb18030}), counted from 0: "
    )
    file.seek(offset)
    raw, found = file.read(4), []
    for number, wrong in _list_wrong_lines(file, name, start):
        found.append(f"{number} ({wrong})")
        if len(found) > MAX_LINES_NAMED:
            break
    more = f", lines {', '.join(found[:MAX_LINES_NAMED])}{' …' if len(found) > MAX_LINES_NAMED else ''}"
    raise UserError(
        f"{place}:{line}: {neither}byte {offset} ({raw.hex(' ')}) is no {name}, in which the rest is written"
        f"{more if len(found) > 1 else ''}; mend these bytes, or {remedy}"
    )


def _count_lines(file: BinaryIO, name: str, start: int = 0, end: int | None = None) -> int:
    """Count the line ends between two offsets of a file in the encoding `name`."""
    decoder, lines = codecs.getincrementaldecoder(name)("replace"), 0
    file.seek(start)
    left = -1 if end is None else end - start
    while left and (chunk := file.read(CHUNK_BYTES if left < 0 else min(left, CHUNK_BYTES))):
        lines += decoder.decode(chunk).count("\n")
        left -= len(chunk) if left > 0 else 0
    return lines


def _list_wrong_lines(file: BinaryIO, name: str, start: int) -> Iterator[tuple[int, str]]:
    """Yield (line, its first wrong bytes in hex) of every line that is not `name`; none for UTF-16 and 32."""
    if name.startswith(("utf-16", "utf-32")):
        return
    file.seek(start)
    for number, line in enumerate(file, 1):
        try:
            line.decode(name)
        except UnicodeDecodeError as error:
            yield number, line[error.start : error.start + 2].hex(" ")


def refuse_mixture(file: BinaryIO, place: str, name: str, least: float, remedy: str) -> None:
    """Raise UserError where some lines of a file in `name` are UTF-8: such lines decode as it by chance."""
    if name.startswith("utf-16") or name == "utf-8":
        return
    file.seek(0)
    found = [number for number, line in enumerate(file, 1) if _gain_as_utf8(line, name) > least]
    if found:
        lines = ", ".join(map(str, found[:MAX_LINES_NAMED])) + (" …" if len(found) > MAX_LINES_NAMED else "")
        raise UserError(f"{place}:{found[0]}: {name}, but lines {lines} are utf-8; write all in one: {remedy}")


def _gain_as_utf8(line: bytes, name: str) -> float:
    """Return by how many nats a line is more probable as UTF-8."""
    try:
        return score_text(line.decode("utf-8"))[0] - score_text(line.decode(name))[0]
    except UnicodeDecodeError:
        return 0.0
