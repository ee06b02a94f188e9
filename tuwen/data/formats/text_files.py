"""Text tables of unknown encoding: CSV and JSONL, row by row, with errors that name file, line and fix."""

import csv
import json
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tuwen.core.errors import UserError
from tuwen.data.formats.foreign_text.dialect import infer_dialect
from tuwen.data.formats.foreign_text.examined_text import (
    MAX_CHARS,
    ExaminedText,
    examine_text,
    open_examined,
    say_once,
    split_lines,
)
from tuwen.data.formats.foreign_text.quote_scan import list_starts
from tuwen.data.formats.impostors import WORKBOOKS, refuse_impostor

DELIMITERS = ";\t,|，；"  # by which programs part columns
CHANGED = "the file was changed while it was read, from this line on or before it: start again"
MAX_PARTED = 3  # records that are named where two readings of a file part
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

HALF = re.compile("[\ud800-\udfff]")
HALVES = "halves of surrogate pairs in JSON, an emoji cut in two, read as U+FFFD"

TextRow = tuple[int, dict[str, Any]]  # line on which the record starts, counted from 1; column -> value


class Reading(NamedTuple):
    """How a text file was read, and what a person should know of it."""

    file: str
    encoding: str
    delimiter: str  # empty where there is none
    quotes: str  # "none", "quoting" or "text"; empty where they mean nothing
    lines: int
    records: int  # without the header
    notes: list[str]


@contextmanager
def open_text(
    path: Path, newline: str | None = "", encoding: str | None = None, readings: list[Reading] | None = None
) -> Iterator[TextIO]:
    """Open a text file of unknown encoding, without its byte order mark.

    The whole file decides (`foreign_text`); it is streamed, never held in memory. newline: as in `open`. encoding:
    what a person says, which overrules. readings: gets how it is read. Raises UserError when the file is missing,
    when its encoding cannot be decided, and when many of its lines were decoded wrongly and saved again.
    """
    text = examine_text(path, newline, encoding)
    if readings is not None:
        readings.append(Reading(str(path), text.encoding, "", "", text.lines, text.lines, text.notes))
    with open_examined(text, newline) as file:
        yield file


def read_csv_rows(
    path: Path,
    columns: Collection[str],
    delimiter: str = ",",
    encoding: str | None = None,
    readings: list[Reading] | None = None,
) -> Iterator[TextRow]:
    """Yield the records of a CSV with a header, in order; quoted fields may hold delimiters and newlines.

    columns: what the header must name, in any order and beside others. encoding, readings: as in
    `read_csv_records`. Raises UserError as it does, for a header that lacks one of them or has a name twice, and
    for a record of another number of fields.
    """
    records = read_csv_records(path, columns, delimiter, encoding, readings)
    _, header = next(records, (1, []))
    _check_header(path, header, columns, delimiter)
    for line, fields in records:
        if [fields[0].removeprefix("\ufeff"), *fields[1:]] == header:
            raise UserError(f"{path}:{line}: the header again, as where files were joined; take this line out")
        if len(fields) != len(header):
            raise UserError(
                f"{path}:{line}: found {len(fields)} fields, expected {len(header)} ({', '.join(header)}); "
                f"put a field that holds {delimiter!r}, a quote or a newline in double quotes"
            )
        yield line, dict(zip(header, fields, strict=True))


def read_csv_records(
    path: Path,
    columns: Collection[str],
    delimiter: str = ",",
    encoding: str | None = None,
    readings: list[Reading] | None = None,
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which it starts, fields) of the records of a CSV, the header first; empty lines are skipped.

    Whether quotes are quoting or text is decided by the whole file; `columns` are what the header must name.
    encoding: what a person says, which overrules. readings: gets how the file is read, before its first record.
    Raises UserError where the records cannot be told, and where those read are not as many as those counted.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CHARS))  # of the process; raised, never lowered
    text = examine_text(path, "", encoding)
    with open_examined(text, "") as file:
        dialect = infer_dialect(path, split_lines(path, file), columns, delimiter, MAX_CHARS)
    if dialect.note:
        print(f"{path}: {dialect.note}", file=sys.stderr)
    if readings is not None:
        notes = [*text.notes, *([dialect.note] if dialect.note else [])]
        readings.append(
            Reading(str(path), text.encoding, delimiter, dialect.quotes, dialect.lines, dialect.records - 1, notes)
        )
    count, parted = 0, 0
    with open_examined(text, "") as file:
        for line, fields in _records(path, file, delimiter, dialect.quoting):
            count += 1
            parted = line if count <= dialect.records + 1 else parted
            yield line, fields
    if count != dialect.records:
        raise UserError(
            f"{path}:{parted}: {count} records were read, but the {dialect.lines} lines hold {dialect.records}; "
            f"{_find_parting(text, delimiter, dialect.quoting) or CHANGED}"
        )


def _find_parting(text: ExaminedText, delimiter: str, quoting: bool) -> str:
    """Return in which lines records begin by the one reading and not by the other; empty where they agree."""
    with open_examined(text, "") as first, open_examined(text, "") as second:
        counted = list_starts(split_lines(text.path, first), delimiter, MAX_CHARS, quoting)
        read = (line for line, _ in _records(text.path, second, delimiter, quoting))
        both = zip_longest(counted, read)
        pairs = [*islice((pair for pair in both if pair[0] != pair[1]), MAX_PARTED)]
    if not pairs:
        return ""
    lines = [", ".join(str(line) for line in side if line) or "none" for side in zip(*pairs, strict=True)]
    return (
        f"they part where records begin in lines {lines[1]} by the parser and {lines[0]} by the count; "
        "look there for quotes that are not closed, or write JSONL"
    )


def _records(path: Path, file: TextIO, delimiter: str, quoting: bool) -> Iterator[tuple[int, list[str]]]:
    quotes: dict[str, Any] = {} if quoting else {"quoting": csv.QUOTE_NONE}
    reader = csv.reader(split_lines(path, file), delimiter=delimiter, strict=True, **quotes)
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


def _check_header(path: Path, header: Sequence[str], columns: Collection[str], delimiter: str) -> None:
    expected = f"expected the columns {', '.join(columns)}" if columns else "expected the names of the columns"
    if not header:
        raise UserError(f"{path}: the file is empty, {expected} in its first line")
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise UserError(
            f"{path}: the header names {twice} twice, found {list(header)}, {expected}; rename one of them"
        )
    if missing := [name for name in columns if name not in header]:
        refuse_impostor(path, "table", WORKBOOKS)
        remedy = "add or rename columns"
        if parted := [mark for mark in DELIMITERS if {*columns} <= {*",".join(header).split(mark)}]:
            remedy = (
                f"it is parted by {parted[0]!r}, not by {delimiter!r}: save it by commas as .csv, by tabs as .tsv"
            )
        raise UserError(f"{path}: the header lacks {missing}, found {list(header)}, {expected}; {remedy}")


def read_json_rows(
    path: Path, keys: Collection[str], encoding: str | None = None, readings: list[Reading] | None = None
) -> Iterator[TextRow]:
    """Yield the objects of a JSONL file, in order, each as `parse_json` reads it; blank lines are skipped.

    keys: what each object must hold, if only as null. encoding, readings: as in `read_csv_rows`. Raises UserError
    for a line that is no such object.
    """
    text, count, parted = examine_text(path, "\n", encoding), 0, 0
    halved = list[int]()  # the line of each half of a surrogate pair
    if readings is not None:
        readings.append(Reading(str(path), text.encoding, "", "", text.lines, text.lines, text.notes))
    with open_examined(text, "\n") as file:
        for line, row in enumerate(split_lines(path, file), 1):
            if row.strip():
                count += 1
                parted = line if count <= text.lines + 1 else parted
                values, halves = _parse_object(path, line, row, keys)
                halved += [line] * halves
                yield line, values
    if count != text.lines:
        raise UserError(f"{path}:{parted}: {count} objects were read, but {text.lines} lines held one; {CHANGED}")
    if halved:
        text.notes.append(f"{len(halved)} {HALVES}, the first in line {halved[0]}")
        say_once(f"{path}: {text.notes[-1]}")


def _parse_object(path: Path, line: int, row: str, keys: Collection[str]) -> tuple[dict[str, Any], int]:
    try:
        values, halves = parse_json(row)
    except (ValueError, RecursionError) as error:
        refuse_impostor(path, "table", WORKBOOKS)
        raise UserError(f"{path}:{line}: no valid JSON ({error}); write one object on each line") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}:{line}: found {row.strip()[:80]!r}, expected one JSON object on each line")
    if missing := [key for key in keys if key not in values]:
        refuse_impostor(path, "table", WORKBOOKS)
        raise UserError(
            f"{path}:{line}: the object lacks {missing}, found the keys {list(values)}; "
            "add them, null where there is no value"
        )
    return values, halves


def parse_json(text: str) -> tuple[Any, int]:
    """Parse JSON; return the value and how many halves of surrogate pairs, which no table can hold, are U+FFFD.

    Raises ValueError for what is no JSON, and for a key that an object has twice with different values.
    """
    value = json.loads(text, object_pairs_hook=_make_object)
    if not SURROGATE.search(text):
        return value, 0
    whole = json.dumps(value, ensure_ascii=False)
    return json.loads(HALF.sub("\ufffd", whole)), len(HALF.findall(whole))


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    for key, value in pairs if len(body) < len(pairs) else ():
        if repr(body[key]) != repr(value):
            raise ValueError(f"the key {key!r:.80} stands twice in one object, with different values")
    return body
