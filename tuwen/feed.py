"""What a training is fed with: views of pairs in an order that (seed, epoch) decides alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from tuwen import pairs, shards, text
from tuwen.augment import VIEWS, Viewer, rows_of
from tuwen.images import Pixels, decode, square, to_pixels
from tuwen.params import Policy

KEPT_BYTES = 1 << 30  # decoded pictures kept in memory; the rest is decoded each time


class Batch(NamedTuple):
    """One step's input, B pairs: pixels [B, 3, S, S], ids and mask [B, L], and two columns [B] of ids.

    Rows with an equal `positive_id` or an equal `caption_id` are positives of each other.
    """

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    positive_id: Tensor
    caption_id: Tensor


class Views(Protocol):
    """Something that can be asked for view `epoch` of its row `index`."""

    def __len__(self) -> int:
        """Number of rows."""

    def item(self, index: int, epoch: int) -> tuple[Pixels, str, str]:
        """(square picture, caption, positive_id)."""


class StoredViews:
    """The views that `augment` wrote: each row is one view, the same in every epoch."""

    def __init__(self, augmented: Path) -> None:
        self._data = augmented.parent
        self._rows = pairs.read_table(augmented / "views.parquet", VIEWS).to_pylist()
        self._kept = _Kept()

    def __len__(self) -> int:
        return len(self._rows)

    def item(self, index: int, epoch: int) -> tuple[Pixels, str, str]:
        """(square picture, caption, positive_id) of the stored view."""
        row = self._rows[index]
        picture = self._kept.picture(self._data, row)
        return square(picture, picture.width), row["caption"], row["positive_id"]


class OnlineViews:
    """A fresh view of every pair of a set in each epoch, by a policy; nothing is stored."""

    def __init__(self, pair_set: Path, policy: Policy, size_px: int, seed: int) -> None:
        self._data = pair_set.parent.parent
        self._rows = rows_of(pairs.read(pair_set))
        self._viewer = Viewer(policy, size_px, seed)
        self._kept = _Kept()

    def __len__(self) -> int:
        return len(self._rows)

    def item(self, index: int, epoch: int) -> tuple[Pixels, str, str]:
        """(square picture, caption, positive_id) of view `epoch`, counted from 1."""
        row = self._rows[index]
        picture = self._kept.picture(self._data, row)
        pixels, caption, _ = self._viewer.view(picture, row["caption"], row["pair_id"], epoch, sided=row["sided"])
        return pixels, caption, row["positive_id"]


class _Kept:
    """Decoded pictures by their place, up to KEPT_BYTES."""

    def __init__(self) -> None:
        self._pictures: dict[tuple[str, int], Image.Image] = {}
        self._bytes = 0

    def picture(self, data: Path, row: dict[str, Any]) -> Image.Image:
        place = (row["shard"], row["offset"])
        found = self._pictures.get(place)
        if found is None:
            found = decode(shards.read(data, row["shard"], row["offset"], row["size"]))
            if self._bytes < KEPT_BYTES:
                self._pictures[place] = found
                self._bytes += 3 * found.width * found.height
        return found


def batches(
    views: Views, tokenizer: Any, *, max_tokens: int, batch_size: int, seed: int, epoch: int
) -> Iterator[Batch]:
    """The batches of one epoch, counted from 1; rows that do not fill the last batch wait for another epoch."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(views), generator=generator).tolist()
    for start in range(0, len(order) - batch_size + 1, batch_size):
        items = [views.item(index, epoch) for index in order[start : start + batch_size]]
        pictures, captions, positives = (list(column) for column in zip(*items, strict=True))
        ids, mask = text.tokenize(tokenizer, captions, max_tokens)
        yield Batch(
            to_pixels(pictures), ids, mask, _numbers(positives), _numbers([text.normalise(c) for c in captions])
        )


def _numbers(names: list[str]) -> Tensor:
    """Equal names -> equal integers."""
    known: dict[str, int] = {}
    return torch.tensor([known.setdefault(name, len(known)) for name in names])
