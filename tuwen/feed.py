"""What a training is fed with: views of pairs in an order that (seed, epoch) decides alone."""

import hashlib
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from torch import Tensor

from tuwen import pairs, shards, text
from tuwen.images import Pixels, decode, square, to_pixels
from tuwen.siblings import without_siblings
from tuwen.views import VIEWS, Viewer, positive_of, rows_of

KEPT_BYTES = 1 << 30  # decoded pictures kept in memory; the rest is decoded each time
EPOCHS_APART = 1_000_003  # between the generators of two seeds


class Batch(NamedTuple):
    """One step's input, B pairs: pixels [B, 3, S, S], ids and mask [B, L], and two columns [B] of ids.

    Rows with an equal `positive_id` or an equal `caption_id` are positives of each other, in the shares of other
    processes too. pair_ids: for messages alone.
    """

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    positive_id: Tensor
    caption_id: Tensor
    pair_ids: tuple[str, ...] = ()


class Item(NamedTuple):
    """One view of a pair."""

    pixels: Pixels  # uint8 [S, S, 3]
    caption: str
    positive_id: str
    pair_id: str


class Views(Protocol):
    """Pairs to train on, asked for epoch by epoch."""

    def __len__(self) -> int:
        """Pairs of an epoch; where a weight makes epochs differ by one, of the shorter ones."""

    def items(self, seed: int, epoch: int) -> Iterator[Item]:
        """At least `len` views in shuffled order; seed and epoch, counted from 1, decide all of it."""


class StoredViews:
    """The views that `augment` wrote for `splits`: each row is one view, the same in every epoch."""

    def __init__(self, augmented: Path, splits: Collection[str]) -> None:
        self._data = augmented.parent
        table = pairs.read_table(augmented / "views.parquet", VIEWS)
        asked = pc.is_in(table["split"], value_set=pa.array(sorted(splits)))
        kept = ["pair_id", "positive_id", "caption", "shard", "offset", "size"]
        self._rows = table.filter(asked).select(kept).combine_chunks()
        self._kept = _Kept()

    def __len__(self) -> int:
        return len(self._rows)

    def items(self, seed: int, epoch: int) -> Iterator[Item]:
        """Every stored view once."""
        for index in _shuffled(len(self), seed, epoch):
            (row,) = self._rows.slice(index, 1).to_pylist()
            picture = self._kept.picture(self._data, row)
            yield Item(square(picture, picture.width), row["caption"], row["positive_id"], row["pair_id"])


class OnlineViews:
    """Fresh views of the true pairs of some sets in each epoch; nothing is stored.

    paraphrases: caption -> its paraphrase. weights: source of a picture -> how often an epoch shows its pairs (1
    where not named), see `window`.
    """

    def __init__(
        self,
        pair_sets: Sequence[Path],
        viewer: Viewer,
        *,
        paraphrases: Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self._data, self._viewer, self._kept = pair_sets[0].parent.parent, viewer, _Kept()
        self._rows: list[dict[str, Any]] = []
        sources: list[str | None] = []
        for folder in pair_sets:
            pair_set = pairs.read(folder)
            self._rows += rows_of(pair_set, paraphrases or {})
            sources += pair_set.images["source"].take(pairs.true_rows(pair_set)[0]).to_pylist()
        named: dict[str | None, list[int]] = {}
        for row, source in enumerate(sources):
            named.setdefault(source, []).append(row)
        self._parts = [
            (np.array(rows, np.int64), (weights or {}).get(source or "", 1.0)) for source, rows in named.items()
        ]

    def __len__(self) -> int:
        return sum(len(window(len(rows), weight, 1)) for rows, weight in self._parts)

    def items(self, seed: int, epoch: int) -> Iterator[Item]:
        """The views of the epoch's window of every source; a pair that stands twice in it has two views."""
        rows, views = self._shown(seed, epoch)
        for index in _shuffled(len(rows), seed, epoch):
            row = self._rows[rows[index]]
            view = self._viewer.view(self._kept.picture(self._data, row), row, int(views[index]))
            yield Item(view.pixels, view.caption, positive_of(row, view), row["pair_id"])

    def _shown(self, seed: int, epoch: int) -> tuple[pairs.Rows, pairs.Rows]:
        """Row and view number, counted from 1, of all that the epoch shows; in the order of the rows."""
        rows, views = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for part, weight in self._parts:
            places = window(len(part), weight, epoch)
            lap, place = np.divmod(np.arange(places.start, places.stop), len(part))
            around = torch.randperm(len(part), generator=_generator(seed, 0)).numpy()
            rows.append(part[around[place]])
            views.append(lap + 1)
        row, view = np.concatenate(rows), np.concatenate(views)
        order = np.lexsort((view, row))
        return row[order], view[order]


class Mixed:
    """Several views as one: each pair comes from one of them by chance, in proportion to what they have left."""

    def __init__(self, parts: Sequence[Views]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def items(self, seed: int, epoch: int) -> Iterator[Item]:
        """`len` views of each part, in the part's own order."""
        draw, left = random.Random(f"mixed:{seed}:{epoch}"), [len(part) for part in self._parts]
        streams = [part.items(seed, epoch) for part in self._parts]
        while any(left):
            (chosen,) = draw.choices(range(len(left)), left)
            left[chosen] -= 1
            yield next(streams[chosen])


class _Kept:
    """Decoded pictures by their place, up to KEPT_BYTES."""

    def __init__(self) -> None:
        self._pictures: dict[tuple[str, int], Image.Image] = {}
        self._bytes = 0

    def picture(self, data: Path, row: Mapping[str, Any]) -> Image.Image:
        place = (row["shard"], row["offset"])
        found = self._pictures.get(place)
        if found is None:
            found = decode(shards.read(data, row["shard"], row["offset"], row["size"]))
            if self._bytes < KEPT_BYTES:
                self._pictures[place] = found
                self._bytes += 3 * found.width * found.height
        return found


def window(rows: int, weight: float, epoch: int) -> range:
    """The places that `epoch`, counted from 1, takes on an endless walk around `rows` pairs.

    Place p is pair p % rows in lap p // rows. Weight 1: every pair once; 0.5: one half, and in the next epoch the
    other one; 2: all of them twice, in two laps.
    """
    share = rows * Fraction(str(weight))  # the decimal number that params.yaml has: ten times 0.1 is 1
    return range(int(share * (epoch - 1)), int(share * epoch))


def batches(
    views: Views,
    tokenizer: Any,
    *,
    max_tokens: int,
    batch_size: int,
    seed: int,
    epoch: int,
    first_step: int = 0,
    rank: int = 0,
    ranks: int = 1,
    apart: bool = False,
) -> Iterator[Batch]:
    """The `len(views) // batch_size` batches of one epoch, counted from 1; what fills no batch is left out.

    first_step: batches that were seen before the training was broken off. rank of ranks: the share of each batch
    that this process gets; all shares together are the batch that one process alone would get. apart: no batch
    holds two items of one picture or caption.
    """
    share = batch_size // ranks
    items = views.items(seed, epoch)
    if apart:
        # what still waits for other pictures at the end meets some of the epoch's first ones a second time
        items = without_siblings(chain(items, views.items(seed, epoch)), batch_size)
    stream = islice(items, first_step * batch_size, None)
    for _ in range(first_step, len(views) // batch_size):
        part = list(islice(stream, batch_size))[rank * share : (rank + 1) * share]
        pictures, captions, positives, pair_ids = zip(*part, strict=True)
        ids, mask = text.tokenize(tokenizer, captions, max_tokens)
        yield Batch(
            to_pixels(list(pictures)),
            ids,
            mask,
            _numbers(positives),
            _numbers([text.normalise(c) for c in captions]),
            pair_ids,
        )


def _shuffled(rows: int, seed: int, epoch: int) -> Iterator[int]:
    yield from map(int, torch.randperm(rows, generator=_generator(seed, epoch)).numpy())


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * EPOCHS_APART + epoch)


def _numbers(names: Sequence[str]) -> Tensor:
    """Equal names -> equal integers, in every process: of 63 bits, so that no two names meet by chance."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests])
