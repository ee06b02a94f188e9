"""Views of pairs to train on, in an order that seed and epoch decide alone.

An epoch is planned first and decoded later: `Views.plan` yields one ViewSpec per view without decoding an image,
and a `Decoder` makes the pixels of each, in whatever process (loader.py).
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from fractions import Fraction
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
IMAGE_CACHE_BYTES = 1 << 30  # decoded images kept in memory; the others are decoded each time
EPOCHS_APART = 1_000_003  # between the generators of two seeds


class ViewSpec(NamedTuple):
    """A view that an epoch shows: planned, not decoded yet."""

    pair_id: str
    positive_id: str
    caption: str
    decoder: int  # which of `Views.decoders` makes its pixels
    source: Any  # what that decoder makes them from; it pickles
    skipped: Counter[str] | None = None  # where the view is counted if another image must stand in for its own
    key: Hashable = None  # equal for equal pixels of one decoder; None: seen once


class Decoder(Protocol):
    """Makes the pixels of views, in any process: it pickles and is small."""

    def __call__(self, source: Any) -> Pixels | str:
        """Map `ViewSpec.source` to uint8 [S, S, 3], or to the reason why another image must stand in."""


class ProcessShare(NamedTuple):
    """One of `ranks` processes."""

    rank: int
    ranks: int


WHOLE = ProcessShare(0, 1)


class Views(Protocol):
    """Pairs to train on, planned epoch by epoch.

    dealt: each process reads rows of its own, and no other ones; else all plan the same batches.
    """

    decoders: list[Decoder]
    dealt: bool

    def __len__(self) -> int:
        """Return the pairs of an epoch; where a weight makes epochs differ by one, of the shorter ones."""

    def list_names(self, seed: int) -> pa.Table | None:
        """Return `positive_id` and `caption` of the first epoch's views, None where they are not known before."""

    def plan(self, seed: int, epoch: int, *, share: ProcessShare = WHOLE, skip: int = 0) -> Iterator[ViewSpec]:
        """Yield a share of at least `len` views in shuffled order, without the first `skip` ones.

        Seed and epoch, counted from 1, decide all of it; of views that are dealt, the number of processes too.
        """


class StoredViews:
    """The views that `augment` wrote for `splits`: each row is one view, the same in every epoch."""

    dealt = False

    def __init__(self, augmented: Path, splits: Collection[str]) -> None:
        self.decoders: list[Decoder] = [_StoredDecoder(augmented.parent)]
        table = pairs.read_table(augmented / "views.parquet", VIEWS)
        in_splits = pc.is_in(table["split"], value_set=pa.array(sorted(splits)))
        columns = ["pair_id", "positive_id", "caption", "shard", "offset", "size"]
        self._rows = table.filter(in_splits).select(columns).combine_chunks()

    def __len__(self) -> int:
        return len(self._rows)

    def list_names(self, seed: int) -> pa.Table:
        """Return those of all views."""
        return self._rows.select(["positive_id", "caption"])

    def plan(self, seed: int, epoch: int, *, share: ProcessShare = WHOLE, skip: int = 0) -> Iterator[ViewSpec]:
        """Yield every stored view once."""
        order = _shuffle_rows(len(self), seed, epoch)[share.rank :: share.ranks][skip:]
        for start in range(0, len(order), ROWS_AT_ONCE):
            for row in self._rows.take(pa.array(order[start : start + ROWS_AT_ONCE])).to_pylist():
                place = Place.of(row)
                yield ViewSpec(row["pair_id"], row["positive_id"], row["caption"], 0, place, key=place)


class OnlineViews:
    """Fresh views of the true pairs of some sets in each epoch; nothing is stored.

    paraphrases: caption -> its paraphrase. weights: source of an image -> how often an epoch shows its pairs, by
    default once (`compute_window`). different: views of each pair, shown in turn; by default each is a new one.
    """

    dealt = False

    def __init__(
        self,
        pair_sets: Sequence[Path],
        viewer: Viewer,
        *,
        paraphrases: Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
        different: int | None = None,
    ) -> None:
        self.decoders: list[Decoder] = [_OnlineDecoder(pair_sets[0].parent.parent, viewer)]
        self._viewer, self._different = viewer, different
        sets = [pairs.read_pair_set(folder) for folder in pair_sets]
        self._rows = pa.concat_tables([list_rows(pair_set, paraphrases or {}) for pair_set in sets])
        source = pa.chunked_array([chunk for pair_set in sets for chunk in _list_sources(pair_set)], pa.string())
        names, number = np.unique(pc.fill_null(source, "").to_numpy(), return_inverse=True)
        self._parts = [
            (np.flatnonzero(number == part), (weights or {}).get(name, 1.0)) for part, name in enumerate(names)
        ]

    def __len__(self) -> int:
        return sum(len(compute_window(len(rows), weight, 1)) for rows, weight in self._parts)

    def list_names(self, seed: int) -> pa.Table:
        """Return them as they are before views are mirrored and captions reworded."""
        return self._rows.select(["positive_id", "caption"]).take(pa.array(self._select_views(seed, 1)[0]))

    def plan(self, seed: int, epoch: int, *, share: ProcessShare = WHOLE, skip: int = 0) -> Iterator[ViewSpec]:
        """Yield the views of the epoch's window of every source; a pair that is twice in it has two views."""
        rows, views = self._select_views(seed, epoch)
        order = _shuffle_rows(len(rows), seed, epoch)[share.rank :: share.ranks][skip:]
        for start in range(0, len(order), ROWS_AT_ONCE):
            block = order[start : start + ROWS_AT_ONCE]
            block_rows = self._rows.take(pa.array(rows[block])).to_pylist()
            for row, view in zip(block_rows, views[block].tolist(), strict=True):
                caption, flipped = self._viewer.plan(row, view)
                key = row["pair_id"], view
                yield ViewSpec(row["pair_id"], find_positive(row, flipped), caption, 0, (row, view), key=key)

    def _select_views(self, seed: int, epoch: int) -> tuple[pairs.RowNumbers, pairs.RowNumbers]:
        """Return row and view number, counted from 1, of all that the epoch shows, in the order of the rows."""
        rows, views = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for part, weight in self._parts:
            window = compute_window(len(part), weight, epoch)
            lap, place = np.divmod(np.arange(window.start, window.stop), len(part))
            walk = torch.randperm(len(part), generator=make_generator(seed, 0)).numpy()
            rows.append(part[walk[place]])
            views.append(1 + (lap % self._different if self._different else lap))
        row, view = np.concatenate(rows), np.concatenate(views)
        order = np.lexsort((view, row))
        return row[order], view[order]


class _StoredDecoder:
    """Decodes the views that lie in shards below `data`, no more."""

    def __init__(self, data: Path) -> None:
        self._images = _ImageCache(data)

    def __call__(self, source: Place) -> Pixels:
        return self._images.get(source)[0]


class _OnlineDecoder:
    """Makes fresh views of the images that lie in shards below `data`."""

    def __init__(self, data: Path, viewer: Viewer) -> None:
        self._viewer, self._images = viewer, _ImageCache(data, viewer.enough_px)

    def __call__(self, source: tuple[dict[str, Any], int]) -> Pixels:
        row, view = source
        pixels, reduced = self._images.get(Place.of(row))
        return self._viewer.render(pixels, row, view, reduced).pixels


class _ImageCache:
    """Decoded images below `data`, and by how much each is reduced; up to IMAGE_CACHE_BYTES are kept.

    enough_px: what a reduced image's shorter side must still have; None: none is reduced. A copy that is sent to
    another process keeps none: workers live for an epoch, which seldom shows a picture twice.
    """

    def __init__(self, data: Path, enough_px: int | None = None, room_bytes: int = IMAGE_CACHE_BYTES) -> None:
        self._data, self._enough_px, self._room_bytes = data, enough_px, room_bytes
        self._decoded: dict[Place, tuple[Pixels, int]] = {}
        self._bytes = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _ImageCache, (self._data, self._enough_px, 0)

    def get(self, place: Place) -> tuple[Pixels, int]:
        image = self._decoded.get(place)
        if image is None:
            image = self._decode(place)
            if self._bytes < self._room_bytes:
                self._decoded[place] = image
                self._bytes += image[0].nbytes
        return image

    def _decode(self, place: Place) -> tuple[Pixels, int]:
        encoded = shards.read_member(self._data, place, scattered=True)
        try:
            if self._enough_px is None:
                return decode_pixels(encoded), 1
            return decode_reduced(encoded, self._enough_px)
        except OSError as error:
            raise UserError(
                f"{self._data / place.shard}: the picture at byte {place.offset} cannot be decoded ({error}); "
                "remove this shard and run `dvc repro`"
            ) from None


def compute_window(rows: int, weight: float, epoch: int) -> range:
    """Return the places that `epoch`, counted from 1, takes on an endless walk around `rows` pairs.

    Place p is pair p % rows in lap p // rows. Weight 1: every pair once; 0.5: one half, and in the next epoch the
    other one; 2: all of them twice, in two laps.
    """
    share = rows * Fraction(str(weight))  # the decimal number that params.yaml has: ten times 0.1 is 1
    return range(int(share * (epoch - 1)), int(share * epoch))


def _list_sources(pair_set: pairs.PairSet) -> list[pa.Array]:
    """Return the source of the image of every true pair, in chunks."""
    chunks: list[pa.Array] = pair_set.images["source"].take(pairs.find_true_rows(pair_set)[0]).chunks
    return chunks


def _shuffle_rows(rows: int, seed: int, epoch: int) -> pairs.RowNumbers:
    return torch.randperm(rows, generator=make_generator(seed, epoch)).numpy()


def make_generator(seed: int, epoch: int) -> torch.Generator:
    """Return a generator for an epoch, or another counter, that shares no draw with those of other seeds."""
    return torch.Generator().manual_seed(seed * EPOCHS_APART + epoch)
