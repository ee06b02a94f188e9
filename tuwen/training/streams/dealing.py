"""Shards dealt to the processes of a training, and cut into blocks that are shuffled, by their list alone.

The pairs of all shards stand in one row, lap after lap, each lap with its shards in another order. An epoch is a
window of it, a process's part a span of that window, so that every pair has one reader, the parts differ by one
pair at the most, and a process opens its own shards alone; two neighbours share the one that is cut between them.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class Span(NamedTuple):
    """Samples `first` to `last` of a shard; with `last` None to its end, be it later than listed."""

    shard: Mapping[str, Any]  # a row of `pairs.SHARDS`
    lap: int
    first: int
    last: int | None

    @property
    def pairs(self) -> int:
        """How many pairs it has by the list."""
        return int(self.shard["pairs"] if self.last is None else self.last) - self.first

    @property
    def bytes(self) -> float:
        """How many bytes they have, were all pairs of the shard of one size."""
        return float(self.pairs * self.shard["size"] / self.shard["pairs"])


def split_window(window: range, rank: int, ranks: int) -> range:
    """Return the part of one of `ranks` processes."""
    return window[len(window) * rank // ranks : len(window) * (rank + 1) // ranks]


def list_spans(
    listed: Sequence[Mapping[str, Any]], seed: int, start: int, stop: int | None = None
) -> Iterator[Span]:
    """Yield the spans of the places from `start` to `stop` of the endless row; seed and lap decide the order."""
    total = sum(row["pairs"] for row in listed)
    lap, passed = divmod(start, total)
    left = None if stop is None else stop - start
    while left is None or left > 0:
        for row in random.Random(f"shards:{seed}:{lap}").sample(listed, len(listed)):
            if passed >= row["pairs"]:
                passed -= row["pairs"]
                continue
            last = None if left is None or passed + left >= row["pairs"] else passed + left
            span = Span(row, lap, passed, last)
            yield span
            passed = 0
            if left is not None:
                left -= span.pairs
                if left <= 0:
                    return
        lap += 1


def group_blocks(spans: Iterable[Span], max_bytes: int) -> Iterator[list[Span]]:
    """Yield spans that are read and shuffled together: up to `max_bytes` of them; a longer span is cut."""
    block: list[Span] = []
    size = 0.0
    for span in spans:
        for part in _cut_span(span, max_bytes):
            if block and size + part.bytes > max_bytes:
                yield block
                block, size = [], 0.0
            block.append(part)
            size += part.bytes
    if block:
        yield block


def _cut_span(span: Span, max_bytes: int) -> Iterator[Span]:
    most = max(1, int(max_bytes / (span.shard["size"] / span.shard["pairs"])))
    end = span.first + span.pairs
    for first in range(span.first, end, most):
        yield span._replace(first=first, last=span.last if first + most >= end else first + most)
