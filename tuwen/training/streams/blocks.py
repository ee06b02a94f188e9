"""Blocks of spans, read in their order: a thread reads one ahead, and remote shards are copied ahead of it."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from tuwen.data.formats.foreign_tar.listed_shard import read_shard
from tuwen.data.formats.foreign_tar.mended_file import find_local
from tuwen.data.formats.foreign_tar.tar_stream import Sample
from tuwen.training.streams.dealing import Span
from tuwen.training.streams.shard_copies import ListedRow, ShardCopies

AHEAD_BLOCKS = 4  # whose remote shards are copied while one is read

Made = TypeVar("Made")
SpanBlock = list[Span]


class SpanReader:
    """Reads spans one after the other; a shard of which the next span goes on is not opened again."""

    def __init__(self, copies: ShardCopies) -> None:
        self._copies = copies
        self._samples: Iterator[Sample] = iter(())
        self._place: tuple[str, int, int | None] | None = None  # shard, lap and sample that `_samples` yields next

    def read(self, span: Span) -> Iterator[Sample]:
        """Yield the samples of a span; all of them, or the next span is read from the start of its shard.

        Raises UserError as `read_shard`.
        """
        shard = span.shard["sha256"]
        if self._place != (shard, span.lap, span.first):
            samples = read_shard(span.shard, copy=self._copies.wait_for(span.shard))
            self._samples = islice(samples, span.first, None)
        self._place = None
        yield from islice(self._samples, None if span.last is None else span.last - span.first)
        self._place = shard, span.lap, span.last


def copy_ahead(blocks: Iterable[SpanBlock], copies: ShardCopies) -> Iterator[SpanBlock]:
    """Yield blocks; the remote shards of the next ones are copied while the caller reads one."""
    following = iter(blocks)
    coming, held = deque(islice(following, 1)), deque[tuple[SpanBlock, list[ListedRow]]]()
    try:
        while coming or held:
            while coming and len(held) <= AHEAD_BLOCKS:
                remote = [span.shard for span in coming[0] if find_local(span.shard["address"]) is None]
                if not copies.hold(remote):
                    if held:
                        break
                    remote = []  # more than all room: they are read where they are
                held.append((coming.popleft(), remote))
                coming.extend(islice(following, 1))
            yield held[0][0]
            copies.release(held.popleft()[1])
    finally:
        for _, remote in held:
            copies.release(remote)


def read_ahead(items: Iterator[Made], count: int) -> Iterator[Made]:
    """Yield items; a thread makes each of the first `count` while the caller has the one before it."""
    with ThreadPoolExecutor(1) as thread:
        made = 1
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            if ahead := made < count:
                coming = thread.submit(next, items, None)
            yield item
            if not ahead:
                coming = thread.submit(next, items, None)
            made += 1
