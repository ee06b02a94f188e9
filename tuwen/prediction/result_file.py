"""Is a result file sound, whoever wrote it? Every fault with its line, its value and how to mend it."""

import codecs
import csv
import io
import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tuwen.core.errors import UserError
from tuwen.data.formats.directions import DIRECTIONS

HEADERS = {
    name: [direction.query_id, "similarity_ranking", f"result_{direction.gallery_id}"]
    for name, direction in DIRECTIONS.items()
}
TASK_TITLES = {"t2i": "a text asks for pictures (result1.csv)", "i2t": "a picture asks for texts (result2.csv)"}
# Distinct results, as a share of what answers drawn by chance would name. Hubs lower it, but models that work stay
# well above (docs/results.md); a batch that is written again and again, or vectors that are all alike, fall below.
FEW_DISTINCT = 0.1
MISSING = "missing"  # follows from other faults more often than not, so it comes last


class Fault(NamedTuple):
    """What is wrong on one line of a result file, and how to mend it."""

    line: int  # counted from 1; of a record over several lines, the first
    kind: str
    text: str


class RankRow(NamedTuple):
    """One record of three fields."""

    line: int
    query_id: str
    rank: str
    item_id: str


class FileReport(NamedTuple):
    """What a result file holds; it is sound where there is no fault, whatever the warning."""

    faults: list[Fault]  # by line, missing ranks last
    rows: int
    distinct: int  # results
    warning: str  # empty: none


def find_faults(
    path: Path, query_ids: Sequence[str], gallery_ids: Sequence[str], k: int, *, direction: str
) -> FileReport:
    """Find every fault of a result file; direction: t2i or i2t.

    Sound: the exact header; UTF-8 without BOM, LF; every query once per rank 1..k, in the order of `query_ids`;
    every result one of `gallery_ids`; no result twice for one query. Raises UserError where there is no file.
    """
    faults: list[Fault] = []
    records = list(_read_records(_read_text(path, faults), faults))
    header = records[0] if records else (1, [])
    faults += _find_header_faults(header, direction)
    rows = [RankRow(line, *fields) for line, fields in records[1:] if len(fields) == 3]
    faults += [
        Fault(line, "fields", f"3 fields expected, got {fields}; write query, rank and result")
        for line, fields in records[1:]
        if len(fields) != 3
    ]
    queries, gallery = set(query_ids), set(gallery_ids)
    swapped, others = list[RankRow](), list[RankRow]()
    for row in rows:
        is_swapped = row.query_id not in queries and row.query_id in gallery and row.item_id in queries
        (swapped if is_swapped else others).append(row)
    # where all rows are swapped, their ids and ranks add nothing
    faults += [_make_swapped_fault(row, direction) for row in (swapped if others else swapped[:1])]
    if others or not rows:
        faults += _find_id_faults(others, queries, gallery)
        faults += _find_place_faults(others, query_ids, k, records[-1][0] if records else 1)
    distinct = len({row.item_id for row in rows})
    warning = _warn_of_few_distinct(distinct, len(rows), len(gallery))
    faults.sort(key=lambda fault: (fault.kind == MISSING, fault.line))
    return FileReport(faults, len(rows), distinct, warning)


def _read_text(path: Path, faults: list[Fault]) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path}: this result file is missing; run `dvc repro predict`, or mend the name"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a CSV file") from None
    if data.startswith(b"\xef\xbb\xbf"):
        faults.append(Fault(1, "encoding", "starts with a byte order mark; save as UTF-8 without BOM"))
        data = data[3:]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        value = f"{data[error.start]:#04x}"
        faults.append(Fault(line, "encoding", f"byte {value} is not UTF-8; save as UTF-8 without BOM"))
        is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if is_utf16 else "gb18030", "replace")  # to name the other faults too
    if "\r" in text:
        line = text.count("\n", 0, text.index("\r")) + 1
        faults.append(Fault(line, "encoding", "a carriage return; end lines with LF alone"))
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def _read_records(text: str, faults: list[Fault]) -> Iterator[tuple[int, list[str]]]:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        start = lines.line_num + 1
        try:
            fields = next(lines, None)
        except csv.Error as error:
            why = f"not valid CSV: {error}; quote fields that hold commas, quotes or newlines, close each quote"
            faults.append(Fault(start, "csv", why))
            continue
        if fields is None:
            return
        yield start, fields


def _find_header_faults(header: tuple[int, list[str]], direction: str) -> Iterator[Fault]:
    line, names = header
    if names == HEADERS[direction]:
        return
    if names in HEADERS.values():
        (other,) = (key for key, header_names in HEADERS.items() if header_names == names)
        due = f"by this header {TASK_TITLES[other]}, but due is: {TASK_TITLES[direction]}"
        yield Fault(line, "direction", f"the directions are swapped: {due}; exchange the two files")
    else:
        due = ",".join(HEADERS[direction])
        yield Fault(line, "header", f"header {due!r} expected, got {','.join(names)!r}; write it so")


def _make_swapped_fault(row: RankRow, direction: str) -> Fault:
    return Fault(
        row.line,
        "direction",
        f"the directions are swapped: {row.query_id!r} is of the gallery and {row.item_id!r} is a query, "
        f"but due is: {TASK_TITLES[direction]}; exchange the two files, or the two columns",
    )


def _find_id_faults(
    rows: Sequence[RankRow], queries: Collection[str], gallery: Collection[str]
) -> Iterator[Fault]:
    for line, query_id, _, item_id in rows:
        if query_id not in queries:
            text = f"{query_id!r} is not a query; use the ids of the query table as they are"
            yield Fault(line, "query", text)
        if item_id not in gallery:
            text = f"{item_id!r} is not in the gallery; use the ids of the gallery table as they are"
            yield Fault(line, "result", text)


def _find_place_faults(rows: Sequence[RankRow], query_ids: Sequence[str], k: int, end: int) -> Iterator[Fault]:
    """Yield ranks and results that stand twice, ranks missing or out of order; end: the file's last line."""
    place_of = {query_id: n for n, query_id in enumerate(query_ids)}
    ranks = {str(rank): rank for rank in range(1, k + 1)}
    first_lines: dict[tuple[str, str], int] = {}  # query and result -> line
    ranked: dict[tuple[str, str], int] = {}  # query and rank -> line
    in_order: list[tuple[int, int, RankRow]] = []
    for row in rows:
        line, query_id, rank, item_id = row
        if query_id not in place_of:
            continue
        if (first := first_lines.setdefault((query_id, item_id), line)) != line:
            text = f"{item_id!r} stands twice for query {query_id!r}, first on line {first}"
            yield Fault(line, "twice", f"{text}; give {k} different items")
        if rank not in ranks:
            yield Fault(line, "rank", f"rank {rank!r} of query {query_id!r}; write the whole numbers 1 to {k}")
        elif (first := ranked.setdefault((query_id, rank), line)) != line:
            yield Fault(
                line, "rank", f"query {query_id!r} has rank {rank} already on line {first}; give each once"
            )
        else:
            in_order.append((place_of[query_id], ranks[rank], row))
    yield from _find_order_faults(in_order, k)
    for query_id in query_ids:
        lines = {rank: ranked.get((query_id, rank), 0) for rank in ranks}
        if missing := [rank for rank, line in lines.items() if not line]:
            text = f"query {query_id!r} lacks rank {', '.join(missing)}; give each query the ranks 1 to {k}"
            yield Fault(max(lines.values()) or end, MISSING, text)


def _find_order_faults(placed: Sequence[tuple[int, int, RankRow]], k: int) -> Iterator[Fault]:
    """Yield the first row that stands too low; those after it would follow from it."""
    for before, here in itertools.pairwise(placed):
        if here[:2] < before[:2]:
            text = (
                f"query {here[2].query_id!r} rank {here[2].rank} stands after query {before[2].query_id!r} "
                f"rank {before[2].rank}; keep the order of the query table, ranks 1 to {k} below each other"
            )
            yield Fault(here[2].line, "order", text)
            return


def _warn_of_few_distinct(distinct: int, rows: int, gallery: int) -> str:
    """Warn where the results are fewer than even hubs explain; chance: G (1 - (1 - 1/G)^rows)."""
    chance = gallery * (1 - (1 - 1 / gallery) ** rows) if gallery else 0
    if not rows or distinct >= FEW_DISTINCT * chance:
        return ""
    return (
        f"only {distinct} distinct results in {rows} rows; answers drawn by chance would name about {chance:.0f}, "
        f"and models that work at least {FEW_DISTINCT:.0%} of that; look for a batch that is written again and "
        "again, for vectors that are all alike, and for an id column that does not advance"
    )
