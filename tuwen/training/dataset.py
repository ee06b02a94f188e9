"""What a training is fed with: views of pairs in an order that (seed, epoch) decides alone.

An epoch is told first and made later: `Views.asked` says which views it shows, without decoding a picture, and a
`Maker` makes each one in whatever process (loader.py).
"""

import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from tuwen.core.errors import UserError
from tuwen.data.augment.views import VIEWS, Viewer, find_positive, list_rows
from tuwen.data.formats import pairs, shards
from tuwen.data.formats.images import Pixels, decode_pixels, decode_reduced
from tuwen.data.formats.shards import Place

ROWS_AT_ONCE = 1024  # of a table, turned into Python's objects
KEPT_BYTES = 1 << 30  # decoded pictures kept in memory; the rest is decoded each time
EPOCHS_APART = 1_000_003  # between the generators of two seeds


class Ask(NamedTuple):
    """A view that an epoch shows, told but not made yet."""

    pair_id: str
    positive_id: str
    caption: str
    maker: int  # which of `Views.makers` makes it
    source: Any  # what that one makes it from; it pickles
    skipped: Counter[str] | None = None  # where it is counted should its picture prove broken


class Maker(Protocol):
    """Makes the pixels of views, in any process: it pickles and is small."""

    def __call__(self, source: Any) -> Pixels | None:
        """`Ask.source` -> uint8 [S, S, 3]; None where the picture is broken and another may stand in for it."""


class Views(Protocol):
    """Pairs to train on, asked for epoch by epoch."""

    makers: list[Maker]

    def __len__(self) -> int:
        """Pairs of an epoch; where a weight makes epochs differ by one, of the shorter ones."""

    def asked(self, seed: int, epoch: int) -> Iterator[Ask]:
        """At least `len` views in shuffled order; seed and epoch, counted from 1, decide all of it."""


class StoredViews:
    """The views that `augment` wrote for `splits`: each row is one view, the same in every epoch."""

    def __init__(self, augmented: Path, splits: Collection[str]) -> None:
        self.makers: list[Maker] = [_Stored(augmented.parent)]
        table = pairs.read_table(augmented / "views.parquet", VIEWS)
        asked = pc.is_in(table["split"], value_set=pa.array(sorted(splits)))
        kept = ["pair_id", "positive_id", "caption", "shard", "offset", "size"]
        self._rows = table.filter(asked).select(kept).combine_chunks()

    def __len__(self) -> int:
        return len(self._rows)

    def asked(self, seed: int, epoch: int) -> Iterator[Ask]:
        """Every stored view once."""
        order = _shuffled(len(self), seed, epoch)
        for start in range(0, len(order), ROWS_AT_ONCE):
            for row in self._rows.take(pa.array(order[start : start + ROWS_AT_ONCE])).to_pylist():
                place = Place.of(row)
                yield Ask(row["pair_id"], row["positive_id"], row["caption"], 0, place)


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
        self.makers: list[Maker] = [_Online(pair_sets[0].parent.parent, viewer)]
        self._viewer = viewer
        read = [pairs.read_pair_set(folder) for folder in pair_sets]
        self._rows = pa.concat_tables([list_rows(one, paraphrases or {}) for one in read])
        source = pa.chunked_array(
            [chunk for one in read for chunk in one.images["source"].take(pairs.find_true_rows(one)[0]).chunks],
            pa.string(),
        )
        names, number = np.unique(pc.fill_null(source, "").to_numpy(), return_inverse=True)
        self._parts = [
            (np.flatnonzero(number == part), (weights or {}).get(name, 1.0)) for part, name in enumerate(names)
        ]

    def __len__(self) -> int:
        return sum(len(window(len(rows), weight, 1)) for rows, weight in self._parts)

    def asked(self, seed: int, epoch: int) -> Iterator[Ask]:
        """The views of the epoch's window of every source; a pair that stands twice in it has two views."""
        rows, views = self._shown(seed, epoch)
        order = _shuffled(len(rows), seed, epoch)
        for start in range(0, len(order), ROWS_AT_ONCE):
            chosen = order[start : start + ROWS_AT_ONCE]
            asked = zip(self._rows.take(pa.array(rows[chosen])).to_pylist(), views[chosen].tolist(), strict=True)
            for row, view in asked:
                caption, flipped = self._viewer.told(row, view)
                yield Ask(row["pair_id"], find_positive(row, flipped), caption, 0, (row, view))

    def _shown(self, seed: int, epoch: int) -> tuple[pairs.RowNumbers, pairs.RowNumbers]:
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
        self.makers: list[Maker] = [maker for part in parts for maker in part.makers]

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def asked(self, seed: int, epoch: int) -> Iterator[Ask]:
        """`len` views of each part, in the part's own order."""
        draw, left = random.Random(f"mixed:{seed}:{epoch}"), [len(part) for part in self._parts]
        streams = [part.asked(seed, epoch) for part in self._parts]
        first = [0, *accumulate(len(part.makers) for part in self._parts)]
        while any(left):
            (chosen,) = draw.choices(range(len(left)), left)
            left[chosen] -= 1
            ask = next(streams[chosen])
            yield ask._replace(maker=first[chosen] + ask.maker)


class _Stored:
    """Makes the views that lie in shards below `data`: decodes them, no more."""

    def __init__(self, data: Path) -> None:
        self._pictures = _Pictures(data)

    def __call__(self, source: Place) -> Pixels:
        return self._pictures.get(source)[0]


class _Online:
    """Makes fresh views of the pictures that lie in shards below `data`."""

    def __init__(self, data: Path, viewer: Viewer) -> None:
        self._viewer, self._pictures = viewer, _Pictures(data, viewer.enough_px)

    def __call__(self, source: tuple[dict[str, Any], int]) -> Pixels:
        row, view = source
        pixels, reduced = self._pictures.get(Place.of(row))
        return self._viewer.view(pixels, row, view, reduced).pixels


class _Pictures:
    """Decoded pictures below `data`, and by how much each is reduced; up to KEPT_BYTES are kept.

    enough_px: what a reduced picture's shorter side must still have; None: none is reduced. A copy that is sent to
    another process begins empty.
    """

    def __init__(self, data: Path, enough_px: int | None = None) -> None:
        self._data, self._enough_px = data, enough_px
        self._kept: dict[Place, tuple[Pixels, int]] = {}
        self._bytes = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _Pictures, (self._data, self._enough_px)

    def get(self, place: Place) -> tuple[Pixels, int]:
        found = self._kept.get(place)
        if found is None:
            found = self._decoded(place)
            if self._bytes < KEPT_BYTES:
                self._kept[place] = found
                self._bytes += found[0].nbytes
        return found

    def _decoded(self, place: Place) -> tuple[Pixels, int]:
        encoded = shards.read_member(self._data, place)
        try:
            if self._enough_px is None:
                return decode_pixels(encoded), 1
            return decode_reduced(encoded, self._enough_px)
        except OSError as error:
            raise UserError(
                f"{self._data / place.shard}: the picture at byte {place.offset} cannot be decoded ({error}); "
                "remove this shard and run `dvc repro`"
            ) from None


def window(rows: int, weight: float, epoch: int) -> range:
    """The places that `epoch`, counted from 1, takes on an endless walk around `rows` pairs.

    Place p is pair p % rows in lap p // rows. Weight 1: every pair once; 0.5: one half, and in the next epoch the
    other one; 2: all of them twice, in two laps.
    """
    share = rows * Fraction(str(weight))  # the decimal number that params.yaml has: ten times 0.1 is 1
    return range(int(share * (epoch - 1)), int(share * epoch))


def _shuffled(rows: int, seed: int, epoch: int) -> pairs.RowNumbers:
    return torch.randperm(rows, generator=_generator(seed, epoch)).numpy()


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * EPOCHS_APART + epoch)
