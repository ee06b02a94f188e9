"""What every store of an index can do: search by vectors under a filter, count, and be dropped.

A store knows rows alone; the tables of the index say what they are.
"""

from typing import NamedTuple, Protocol

from tuwen.retrieval.vectors import Rows, Vectors


class ItemFilter(NamedTuple):
    """What an item must be to be found; all columns count together, an empty filter takes every item."""

    values: tuple[tuple[str, tuple[str, ...]], ...] = ()  # column -> any of these
    ranges: tuple[tuple[str, int, int], ...] = ()  # column, least and most, both included


class Hits(NamedTuple):
    """What a query found, best first: rows of the index [k] and their cosines; fewer than asked where all are."""

    rows: Rows
    cosines: Vectors


class Store(Protocol):
    """Where the vectors of an index lie; `side` is images or texts."""

    def search(self, side: str, queries: Vectors, k: int, keep: ItemFilter) -> list[Hits]:
        """Return the k best items that the filter keeps, for each query; queries [Q, D], unit rows."""
        ...

    def count(self, side: str, keep: ItemFilter) -> int:
        """Return how many items the filter keeps."""
        ...

    def take_over(self) -> None:
        """Tell whoever asks the store's server himself that this index answers from now on."""
        ...

    def drop(self) -> None:
        """Let go of what the store holds; it is not asked again."""
        ...
