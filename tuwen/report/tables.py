"""A table as Markdown."""

from collections.abc import Iterable
from typing import Any


def format_table(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> list[str]:
    """Return its lines; a bar inside a cell is escaped."""
    names = list(header)
    lines = [names, ["---"] * len(names), *rows]
    return [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
