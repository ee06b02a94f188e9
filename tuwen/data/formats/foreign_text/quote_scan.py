"""A CSV or TSV read both ways, line by line: its quotes as quoting, and as text. Nothing is decided here."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

SAMPLE_ROWS = 2000  # rows that show what a column looks like
MAX_NOTED = 1000  # records that are kept to be judged at the end ...
MAX_ROWS = 50  # ... and lines of each


class Taken(NamedTuple):
    """A record over several lines, or of another number of fields, some of whose lines could be rows, as text."""

    line: int  # the first
    last: int  # the last line
    rows: list[list[str]]  # the cells of those lines, with quotes as text; of many the first
    is_all: bool  # whether all of its lines could be rows
    after: list[str] = []  # noqa: RUF012 - the cells of the line behind it; empty at the end of the file


class QuoteScan:
    """Both readings of a file, and what speaks for either; `add` every line, then `finish`."""

    def __init__(self, delimiter: str, max_chars: int) -> None:
        self.delimiter, self.max_chars = delimiter, max_chars
        self.lines = 0
        self.first_quote = 0  # its line
        # as text: the header, the records, the first line of another number of cells and that number
        self.header: list[str] = []
        self.text_records = 0
        self.text_fault: tuple[int, int] | None = None
        self.samples: list[list[str]] = []  # rows without a quote
        self.wrapped_rows = 0  # with a cell between quotes
        self._wrapped = re.compile(rf'(?:^|{re.escape(delimiter)})"[^"]*"(?:{re.escape(delimiter)}|$)')
        # as quoting: the records, the first that is none and why
        self.records = 0
        self.start = 0  # the first line of the last of them
        self.fault: tuple[int, str] | None = None
        self._width = 0
        # quotes within cells, cells that need not be quoted, cells that must
        self.bare = self.wrapped = self.proper = 0
        self.taken: list[Taken] = []
        self.taken_lines = 0  # that would be in cells of the line before
        # of the record that is open: its first line, its fields and characters so far, its rows as text
        self._opened, self._fields, self._chars = 0, 0, 0
        self._rows: list[list[str]] = []
        self._all_rows = True

    def add(self, raw: str) -> None:
        """Read one line, which ends with its line end."""
        self.lines += 1
        line = raw.removesuffix("\n").removesuffix("\r")
        if '"' in line:
            self.first_quote = self.first_quote or self.lines
        if line:
            if self.taken and not self._opened and not self.taken[-1].after:
                self.taken[-1] = self.taken[-1]._replace(after=line.split(self.delimiter))
            self._add_as_text(line)
        if self.fault is None and (line or self._opened):
            self._add_as_quoting(line, len(raw))

    def finish(self) -> None:
        """Tell that the file ends here."""
        if self._opened and self.fault is None:
            self.fault = self._opened, "unexpected end of data"

    def _add_as_text(self, line: str) -> None:
        self.text_records += 1
        width = line.count(self.delimiter) + 1
        if not self.header:
            self.header = line.split(self.delimiter)
        elif width != len(self.header):
            self.text_fault = self.text_fault or (self.lines, width)
        elif '"' in line:
            self.wrapped_rows += self._wrapped.search(line) is not None
        elif not self._opened and len(self.samples) < SAMPLE_ROWS:
            self.samples.append(line.split(self.delimiter))

    def _add_as_quoting(self, line: str, chars: int) -> None:
        goes_on = bool(self._opened)
        if not goes_on:
            self._fields, self._chars, self._rows, self._all_rows = 0, 0, [], True
        if not goes_on and '"' not in line:
            self._end_record(line.count(self.delimiter) + 1, line)
            return
        kinds = list(self._split(line, goes_on))
        self.bare += kinds.count("bare")
        self.wrapped += kinds.count("wrapped")
        self.proper += kinds.count("proper")
        self._fields += len(kinds) - kinds.count("open")
        self._chars += chars
        self._opened = self._opened or self.lines
        if goes_on or kinds[-1] == "open":
            self._note_line(line)
        if kinds[-1] == "wrong":
            self.fault = self._opened, f"{self.delimiter!r} expected after '\"'"
        elif kinds[-1] == "open" and self._chars > self.max_chars:
            self.fault = self._opened, f"field larger than field limit ({self.max_chars})"
        elif kinds[-1] != "open":
            self._end_record(self._fields, line)

    def _note_line(self, line: str) -> None:
        """Keep a line of a record over several lines where it could be a row."""
        could_be = line.count(self.delimiter) + 1 == len(self.header)
        self._all_rows &= could_be
        if could_be and len(self._rows) < MAX_ROWS:
            self._rows.append(line.split(self.delimiter))

    def _end_record(self, fields: int, line: str) -> None:
        first = self._opened or self.lines
        if self._width and fields != self._width and first == self.lines:
            self._note_line(line)
        if self._rows:
            self.taken_lines += self.lines - first
            if len(self.taken) < MAX_NOTED:
                self.taken.append(Taken(first, self.lines, self._rows, self._all_rows))
        self._opened = 0
        self.start = first
        self.records += 1
        self._width = self._width or fields

    def _split(self, line: str, is_inside: bool) -> Iterator[str]:
        """Yield a word for each field: plain, bare, wrapped, proper, open (it goes on), wrong (not quoting)."""
        at, end = 0, len(line)
        while True:
            if is_inside or line.startswith('"', at):
                start = at if is_inside else at + 1
                close = line.find('"', start)
                while close >= 0 and line.startswith('""', close):
                    close = line.find('"', close + 2)
                if close < 0:
                    yield "open"
                    return
                if close + 1 < end and not line.startswith(self.delimiter, close + 1):
                    yield "wrong"
                    return
                cell = line[start:close]
                yield "proper" if is_inside or self.delimiter in cell or '"' in cell else "wrapped"
                is_inside, stop = False, close + 1
            else:
                stop = line.find(self.delimiter, at)
                stop = end if stop < 0 else stop
                yield "bare" if line.find('"', at, stop) >= 0 else "plain"
            if stop >= end:
                return
            at = stop + 1


def list_starts(lines: Iterable[str], delimiter: str, max_chars: int, quoting: bool) -> Iterator[int]:
    """Yield the line on which each record begins, the header first; quoting: whether quotes are that, or text."""
    scan = QuoteScan(delimiter, max_chars)
    for number, line in enumerate(lines, 1):
        records = scan.records if quoting else scan.text_records
        scan.add(line)
        if (scan.records if quoting else scan.text_records) > records:
            yield scan.start if quoting else number
