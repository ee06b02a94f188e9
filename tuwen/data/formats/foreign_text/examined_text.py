"""A text file, examined as a whole before it is read: its encoding, NUL bytes, lines that were decoded wrongly."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, TextIO

from tuwen.core.errors import UserError
from tuwen.data.formats.foreign_text.encoding import infer_encoding
from tuwen.data.formats.foreign_text.mangled import Mangled, find_mangled
from tuwen.data.formats.impostors import WORKBOOKS, refuse_impostor

BLOCK_CHARS = 1 << 20
MAX_CHARS = 1 << 26  # of a field or a line, above any caption: a quote never closed must not fill the memory
MAX_MANGLED_SHARE = 0.01  # of the lines beyond ASCII: more were decoded wrongly and saved, and the file is refused
MAX_NAMED = 5
LOST_CHARACTERS = ("NUL bytes (00)", "characters that were lost before (U+FFFD, bytes ef bf bd in UTF-8)")
NAME_ENCODING = (
    "save the file as UTF-8, or name its encoding where the source has `encoding:` (`tuwen init`: --encoding)"
)


class ExaminedText(NamedTuple):
    """A text file that was examined as a whole."""

    path: Path
    encoding: str
    lines: int  # that hold more than blanks
    notes: list[str]


@contextmanager
def open_examined(text: ExaminedText, newline: str | None) -> Iterator[TextIO]:
    """Open it in its encoding, behind its byte order mark; newline: as in `open`."""
    with open(text.path, encoding=text.encoding, newline=newline) as file:
        if file.read(1) != "\ufeff":
            file.seek(0)
        yield file


def examine_text(path: Path, newline: str | None, encoding: str | None) -> ExaminedText:
    """Decide the encoding, look at every line, and tell on stderr what a person should know."""
    if not path.is_file():
        raise UserError(f"{path}: not found, or not a file; check `source` or `corpus` in params.yaml")
    try:
        decided = infer_encoding(path, encoding, NAME_ENCODING)
    except UserError:
        refuse_impostor(path, "text", WORKBOOKS)
        raise
    text = ExaminedText(path, decided.name, 0, [decided.note] if decided.note else [])
    lines = number = beyond = 0
    lost = {"\0": [0, 0], "\ufffd": [0, 0]}  # character -> how many, and the line of the first
    mangled = list[Mangled]()
    with open_examined(text, newline) as file:
        for block in _split_blocks(path, file):
            joined = "".join(block)
            for character, found in lost.items():
                if count := joined.count(character):
                    first = next(n for n, line in enumerate(block, 1) if character in line)
                    lost[character] = [found[0] + count, found[1] or number + first]
            lines += sum(not line.isspace() for line in block)
            beyond += 0 if joined.isascii() else sum(not line.isascii() for line in block)
            mangled += [one._replace(line=one.line + number + 1) for one in find_mangled(block)]
            number += len(block)
    for (count, first), what in zip(lost.values(), LOST_CHARACTERS, strict=True):
        if count:
            text.notes.append(f"{count} {what}, the first in line {first}")
    if mangled:
        text.notes.append(_describe_mangled(text, mangled, beyond, encoding is None))
    for note in text.notes:
        say_once(f"{path}: {note}")
    return text._replace(lines=lines)


@cache
def say_once(line: str) -> None:
    """Print a line on stderr; a file that one command reads several times is told of once."""
    print(line, file=sys.stderr)


def _describe_mangled(text: ExaminedText, mangled: Sequence[Mangled], beyond: int, may_refuse: bool) -> str:
    """Return what to tell of lines that were decoded wrongly. Raises UserError where they are many."""
    first = mangled[0]
    numbers = ", ".join(str(one.line) for one in mangled[:MAX_NAMED]) + (" …" if len(mangled) > MAX_NAMED else "")
    meant = f", meant is {first.meant[:20]!r}" if first.meant else ""
    raw = first.found[:4].encode("utf-8", "replace").hex(" ")
    told = f"{len(mangled)} lines ({numbers}): {first.found[:20]!r} (bytes {raw}) is {first.how}{meant}"
    if may_refuse and len(mangled) > MAX_MANGLED_SHARE * beyond:
        raise UserError(
            f"{text.path}:{first.line}: {told}; get the file as it was before, or set `encoding: {text.encoding}` "
            "in the source to read it as it is"
        )
    return told


def _split_blocks(path: Path, file: TextIO) -> Iterator[list[str]]:
    """Yield the lines in lists of about BLOCK_CHARS characters."""
    block, chars = list[str](), 0
    for line in split_lines(path, file):
        block.append(line)
        chars += len(line)
        if chars >= BLOCK_CHARS:
            yield block
            block, chars = [], 0
    if block:
        yield block


def split_lines(path: Path, file: TextIO) -> Iterator[str]:
    """Yield the lines with their ends. Raises UserError for one of more than MAX_CHARS."""
    for number, line in enumerate(iter(partial(file.readline, MAX_CHARS), ""), 1):
        if len(line) == MAX_CHARS and line[-1] not in "\r\n":
            raise UserError(
                f"{path}:{number}: no line end within {MAX_CHARS} characters; write one record on each"
            )
        yield line
