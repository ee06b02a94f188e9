"""Are the quotes of a CSV or TSV quoting, or text? Decided by the whole file, which is read both ways.

As quoting, a quote that opens a cell and is text takes all rows up to the next one into that cell, and no parser
can tell. But then every line, with quotes as text, has the header's number of cells, and what was taken looks like
rows.
"""

import re
from collections.abc import Collection, Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tuwen.core.errors import UserError
from tuwen.data.formats.foreign_text.quote_scan import QuoteScan, Taken

MAX_SHAPES = 4  # a column of more forms than this, and than one for four rows, is not regular
FEW_ROWS = 5  # without a quote: fewer do not tell what a row looks like
NUMBERS = re.compile("([0-9]+)")
FILE_NAME = re.compile(r".*\.([A-Za-z0-9]{2,5})")
RUNS = [(re.compile("[0-9]+"), "0"), (re.compile("[A-Za-z]+"), "a"), (re.compile(r"[^\x00-\x7f]+"), "中")]


class Dialect(NamedTuple):
    """How the records of a file are to be read, and how many there are by this module's own count."""

    quoting: bool  # False: quotes are text
    quotes: str  # for people: "none", "quoting" or "text"
    note: str  # empty: nothing to tell
    lines: int  # that end in a line end, and the last
    records: int  # that are not empty, the header among them


def infer_dialect(
    path: Path, lines: Iterable[str], columns: Collection[str], delimiter: str, max_chars: int
) -> Dialect:
    """Decide whether quotes are quoting or text. lines: with their ends; columns: what the header must name.

    Raises UserError that names lines where both readings stand and differ in their rows, and where neither does.
    """
    scan = QuoteScan(delimiter, max_chars)
    for line in lines:
        scan.add(line)
    scan.finish()
    text_stands = scan.text_fault is None and set(columns) <= set(scan.header)
    why = ""  # quotes are text
    # a writer that puts cells in quotes did: as text, all of these would keep them
    is_wrapped = 2 * scan.wrapped_rows >= scan.text_records - 1 > 0
    if scan.fault:
        place, why = scan.fault
        if not text_stands or is_wrapped:
            raise _make_invalid_error(path, place, why, scan)
        why = f"line {place}: as quoting {why}"
    elif scan.taken:
        why = _judge_taken(path, scan, text_stands)
    elif (
        text_stands
        and not is_wrapped
        and scan.wrapped
        and not scan.proper
        and (scan.bare or (delimiter == "\t" and scan.samples))
    ):
        why = f"line {scan.first_quote}: what needs quoting has none"
    if why:
        return Dialect(False, "text", f"quotes are text ({why})", scan.lines, scan.text_records)
    needless = scan.wrapped if scan.samples and not scan.proper else 0
    note = f"{needless} cells are read without their quotes, which they do not need" if needless else ""
    return Dialect(True, "quoting" if scan.first_quote else "none", note, scan.lines, scan.records)


def _judge_taken(path: Path, scan: QuoteScan, text_stands: bool) -> str:
    """Return why quotes are text in a file with records whose lines could be rows; empty where they are none."""
    column = _find_regular_column(scan)
    is_numbered = column is not None and _is_numbered(scan, column)
    alike = {one.line: _count_like_rows(one, scan, column) for one in scan.taken}
    complete = [one for one in scan.taken if one.is_all and alike[one.line] == len(one.rows)]
    if text_stands and complete == scan.taken and scan.text_records - scan.records == scan.taken_lines:
        reading = _compare_numbers(scan.taken, column if is_numbered else None)
        if reading == "doubt":
            raise _make_doubt_error(path, scan.taken)
        lost = f"{scan.taken_lines} rows" if scan.taken_lines else "cells"
        return f"line {scan.taken[0].line}: as quoting {lost} would be lost in cells" if reading == "text" else ""
    doubtful = [one for one in scan.taken if alike[one.line] > 1]
    if text_stands and (column is None or len(scan.samples) < FEW_ROWS):
        doubtful = [one for one in scan.taken if one.is_all]
    if doubtful:
        raise _make_doubt_error(path, doubtful)
    return ""


def _compare_numbers(taken: list[Taken], column: int | None) -> str:
    """Return what records are whose lines are all like rows: "text" (rows), "quoting" (one each), or "doubt".

    A person may write a line of a caption that looks like a row, but hardly two. Of one line the numbers of the
    rows tell: do they go on through it (6, 7, 8), or past it (6, with 7 in it, then 7)? column: with numbers.
    """
    votes = set[str]()
    for one in taken:
        cells = [row[column] for row in (*one.rows, one.after) if row] if column is not None else []
        follows = [_follows(*pair) for pair in pairwise(cells)]
        if one.last == one.line or (follows and all(follows)):
            votes.add("text")
        elif follows and one.after and _follows(cells[0], cells[-1]):
            votes.add("quoting")
        else:
            votes.add("text" if len(one.rows) > 2 else "doubt")
    if len(votes) > 1 and "quoting" not in votes:
        return "text"  # of one kind in a file
    return votes.pop() if len(votes) == 1 else "doubt"


def _is_numbered(scan: QuoteScan, column: int) -> bool:
    """Whether the rows are mostly numbered in this column, each by one more than the last."""
    pairs = list(pairwise(row[column] for row in scan.samples))
    return 2 * sum(_follows(*pair) for pair in pairs) > len(pairs)


def _follows(first: str, second: str) -> bool:
    """Whether two cells differ in one number alone, the second by one more: p/007.jpg and p/008.jpg."""
    before, after = NUMBERS.split(first.strip('"')), NUMBERS.split(second.strip('"'))
    if len(before) != len(after):
        return False
    changed = [place for place in range(len(before)) if before[place] != after[place]]
    return len(changed) == 1 and changed[0] % 2 == 1 and int(after[changed[0]]) - int(before[changed[0]]) == 1


def _find_regular_column(scan: QuoteScan) -> int | None:
    """Return the column of file names, or else of the fewest forms; None where no column is regular."""
    if len(scan.header) < 2 or not scan.samples:
        return None
    forms = [{_find_shape(row[column]) for row in scan.samples} for column in range(len(scan.header))]
    orders = [(not all(form.startswith("*.") for form in some), len(some)) for some in forms]
    best = min(range(len(forms)), key=orders.__getitem__)
    return best if len(forms[best]) <= max(MAX_SHAPES, len(scan.samples) // 4) else None


def _count_like_rows(taken: Taken, scan: QuoteScan, column: int | None) -> int:
    """Count the lines of the record that have, in the regular column, a form that rows have there."""
    if column is None:
        return 0
    known = {_find_shape(row[column]) for row in scan.samples} - {""}
    return sum(_find_shape(row[column]) in known for row in taken.rows)


def _find_shape(cell: str) -> str:
    """Return the form of a cell: that of a file's name is its extension, any other has its runs shortened."""
    cell = cell.strip('"').strip()
    if match := FILE_NAME.fullmatch(cell):
        return f"*.{match[1].lower()}"
    for runs, mark in RUNS:
        cell = runs.sub(mark, cell)
    return cell


def _make_invalid_error(path: Path, line: int, why: str, scan: QuoteScan) -> UserError:
    other = "the header lacks a column"
    if scan.wrapped_rows:
        other = f"{scan.wrapped_rows} rows would keep the quotes around their cells"
    if scan.text_fault:
        other = f"line {scan.text_fault[0]} has {scan.text_fault[1]} fields, not {len(scan.header)}"
    return UserError(
        f"{path}:{line}: the record that starts here is no valid CSV ({why}); double each quote inside a quoted "
        f'field ("", not \\") and close each quoted field (with quotes as text, {other})'
    )


def _make_doubt_error(path: Path, taken: list[Taken]) -> UserError:
    more = " …" if len(taken) > 5 else ""
    lines, ends = (", ".join(map(str, numbers)) for numbers in zip(*(one[:2] for one in taken[:5]), strict=True))
    return UserError(
        f"{path}:{taken[0].line}: can be read in two ways: the quotes that open in lines {lines}{more} take what "
        f"follows, up to lines {ends}{more}, into their cells, and it may be rows; where a quote is text, double "
        "it and put its cell in quotes; where a cell has a line break, write a blank for it, or the table as JSONL"
    )
