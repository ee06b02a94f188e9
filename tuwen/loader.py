"""The batches of a training: the same ones, byte for byte, whatever the number of worker processes."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tuwen import text
from tuwen.feed import Views
from tuwen.images import to_pixels


class Batch(NamedTuple):
    """One step's input, B pairs: pixels [B, 3, S, S], ids and mask [B, L], two columns [B] of ids, and B names.

    Rows with an equal `positive_id` or an equal `caption_id` are positives of each other. `pair_id` stays on the
    host: it says which pairs these are when something is wrong with them.
    """

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    positive_id: Tensor
    caption_id: Tensor
    pair_id: tuple[str, ...] = ()


def batches(
    views: Views,
    tokenizer: Any,
    *,
    max_tokens: int,
    batch_size: int,
    seed: int,
    epoch: int,
    first_step: int = 0,
    siblings: bool = True,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """The `len(views) // batch_size` batches of one epoch, counted from 1; what fills no batch is left out.

    first_step: batches that are passed by, without making their views. siblings: False keeps rows with an equal
    positive_id or caption out of each other's batch. rank, world: of each batch only this process's rows, which
    are `batch_size / world` in a row; the ids of a batch agree in all of its processes.
    """
    stream = views.items(seed, epoch)
    for number in range(len(views) // batch_size):
        items = list(islice(stream, batch_size))
        if number < first_step:
            continue
        own = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
        ids, mask = text.tokenize(tokenizer, [item.caption for item in items[own]], max_tokens)
        yield Batch(
            to_pixels([item.pixels for item in items[own]]),
            ids,
            mask,
            _numbers([item.positive_id for item in items])[own],
            _numbers([text.normalise(item.caption) for item in items])[own],
            tuple(item.positive_id for item in items[own]),
        )


def _numbers(names: Sequence[str]) -> Tensor:
    """Equal names -> equal integers."""
    known: dict[str, int] = {}
    return torch.tensor([known.setdefault(name, len(known)) for name in names])
