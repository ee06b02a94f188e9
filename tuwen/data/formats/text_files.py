"""Text tables of unknown encoding: CSV and JSONL, row by row, with errors that name file, line and fix."""

import codecs
import csv
import json
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from tuwen.core.errors import UserError

ENCODINGS = ("utf-8", "gb18030")
CHUNK_BYTES = 1 << 20
MAX_CHARS = 1 << 26  # of a field or a line, above any caption: a quote never closed must not fill the memory
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

TextRow = tuple[int, dict[str, Any]]  # line on which the record starts, counted from 1; column -> value


@contextmanager
def open_text(path: Path, newline: str = "") -> Iterator[TextIO]:
    """Open a text file of unknown encoding: UTF-8, else GB18030, each with or without a byte order mark.

    The whole file decides; it is streamed, never held in memory. newline: as in `open`. Raises UserError when the
    file is missing or in neither encoding.
    """
    if not path.is_file():
        raise UserError(f"{path}: not found, or not a file; check `source` or `corpus` in params.yaml")
    wrong_offsets = {}
    for encoding in ENCODINGS:
        offset = _first_wrong_byte(path, encoding)
        if offset is None:
            break
        wrong_offsets[encoding] = offset
    else:
        places = " nor ".join(f"{encoding} (byte {offset})" for encoding, offset in wrong_offsets.items())
        raise UserError(f"{path}: neither {places}, counted from 0; save the file as UTF-8")
    if wrong_offsets:
        print(f"{path}: not utf-8 (byte {wrong_offsets['utf-8']}), read as {encoding}", file=sys.stderr)
    with open(path, encoding=encoding, newline=newline) as file:
        if file.read(1) != "\ufeff":
            file.seek(0)
        yield file


def _first_wrong_byte(path: Path, encoding: str) -> int | None:
    """Return the offset of the first byte that is not `encoding`, None when all are."""
    decoder, done = codecs.getincrementaldecoder(encoding)(), 0
    with open(path, "rb") as file:
        while True:
            chunk = file.read(CHUNK_BYTES)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return done - pending + error.start
            if not chunk:
                return None
            done += len(chunk)


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    for number, line in enumerate(iter(partial(file.readline, MAX_CHARS), ""), 1):
        if len(line) == MAX_CHARS and line[-1] not in "\r\n":
            raise UserError(
                f"{path}:{number}: no line end within {MAX_CHARS} characters; write one record on each"
            )
        yield line


def read_csv_rows(path: Path, columns: Collection[str], delimiter: str = ",") -> Iterator[TextRow]:
    """Yield the records of a CSV with a header, in order; quoted fields may hold delimiters and newlines.

    columns: what the header must name, in any order and beside others. Empty lines are skipped. Raises UserError
    for a header that lacks one of them or has a name twice, and for a record of another number of fields.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CHARS))  # of the process; raised, never lowered
    with open_text(path) as file:
        reader = csv.reader(_lines(path, file), delimiter=delimiter, strict=True)
        header = next((fields for _, fields in _records(path, reader)), [])
        _check_header(path, header, columns)
        for line, fields in _records(path, reader):
            if len(fields) != len(header):
                raise UserError(
                    f"{path}:{line}: found {len(fields)} fields, expected {len(header)} ({', '.join(header)}); "
                    f"put a field that holds {delimiter!r}, a quote or a newline in double quotes"
                )
            yield line, dict(zip(header, fields, strict=True))


def _records(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path}:{line}: the record that starts here is no valid CSV ({error}); double each quote inside "
                "a quoted field and close each quoted field"
            ) from None
        if fields is None:
            return
        if fields:
            yield line, fields


def _check_header(path: Path, header: Sequence[str], columns: Collection[str]) -> None:
    expected = f"expected the columns {', '.join(columns)}"
    if not header:
        raise UserError(f"{path}: the file is empty, {expected} in its first line")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise UserError(
            f"{path}: the header names {twice} twice, found {list(header)}, {expected}; rename one of them"
        )
    if missing := [name for name in columns if name not in header]:
        raise UserError(
            f"{path}: the header lacks {missing}, found {list(header)}, {expected}; add or rename columns"
        )


def read_json_rows(path: Path, keys: Collection[str]) -> Iterator[TextRow]:
    """Yield the objects of a JSONL file, in order, each as `parse_json` reads it; blank lines are skipped.

    keys: what each object must hold, if only as null. Raises UserError for a line that is no such object.
    """
    with open_text(path, newline="\n") as file:
        for line, text in enumerate(_lines(path, file), 1):
            if not text.strip():
                continue
            try:
                values = parse_json(text)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{line}: no valid JSON ({error}); write one object on each line") from None
            if not isinstance(values, dict):
                raise UserError(
                    f"{path}:{line}: found {text.strip()[:80]!r}, expected one JSON object on each line"
                )
            if missing := [key for key in keys if key not in values]:
                raise UserError(
                    f"{path}:{line}: the object lacks {missing}, found the keys {list(values)}; "
                    "add them, null where there is no value"
                )
            yield line, values


def parse_json(text: str) -> Any:
    """Parse JSON, with U+FFFD for half of a surrogate pair, which no table can hold. Raises ValueError."""
    if SURROGATE.search(text):
        whole = json.dumps(json.loads(text), ensure_ascii=False)
        text = whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return json.loads(text)
