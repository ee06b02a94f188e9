"""Pairs of an epoch that were not shown, over all processes."""

from collections import Counter
from collections.abc import Iterable

from tuwen.training import distributed
from tuwen.training.checkpoint import Stream


def gather_skipped(streams: Iterable[Stream]) -> dict[str, float]:
    """Return skipped_<reason> -> pairs of the epoch under way. All processes call this."""
    rank = distributed.get_rank()
    own = sum((stream.count_skipped(rank) for stream in streams), Counter[str]())
    total = sum(distributed.gather_objects(own), Counter[str]())
    return {f"skipped_{reason}": count for reason, count in sorted(total.items())}
