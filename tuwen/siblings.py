"""Batches in which nothing has a sibling: another view of its picture, or its very caption."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tuwen import text
from tuwen.errors import UserError

if TYPE_CHECKING:  # feed imports this module
    from tuwen.feed import Item


def without_siblings(items: Iterable["Item"], batch_size: int) -> Iterator["Item"]:
    """The items in an order in which no batch of `batch_size` in a row holds two of one picture or caption.

    One that would waits for the next batch. Raises UserError where the items end before a batch is full.
    """
    stream, waiting = iter(items), deque["Item"]()
    while True:
        batch, later, names = list["Item"](), list["Item"](), set[tuple[str, str]]()
        while len(batch) < batch_size:
            item = waiting.popleft() if waiting else next(stream, None)
            if item is None:
                raise UserError(
                    f"params.yaml: baseline.fit or finetune.fit: siblings: apart: only {len(batch)} pairs of "
                    f"different pictures and captions are left for a batch of {batch_size}; lower batch_size"
                )
            own = {("picture", item.positive_id), ("caption", text.normalise(item.caption))}
            (later if names & own else batch).append(item)
            names |= own
        waiting.extendleft(reversed(later))
        yield from batch
