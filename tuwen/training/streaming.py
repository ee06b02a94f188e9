"""Corpus shards that stay where they are: read from end to end in each epoch, shuffled in a bounded buffer."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tuwen.core.errors import UserError
from tuwen.data.augment.views import Viewer, find_positive
from tuwen.data.formats import pairs, sides, text
from tuwen.data.formats.foreign_tar.tar_stream import Sample, read_shard
from tuwen.data.formats.images import Pixels, decode_reduced, open_image
from tuwen.data.formats.json_file import read_json
from tuwen.data.formats.near_images.looks import measure_look
from tuwen.data.formats.near_images.near_looks import HeldOut, collect_thumbnails
from tuwen.training.dataset import Decoder, ViewSpec, compute_window

SHUFFLE_BUFFER_BYTES = 256 << 20  # of encoded images; about 3,000 of 85 kB


class StreamedPair(NamedTuple):
    """A pair of a shard whose image is not decoded yet."""

    pair_id: str
    image: bytes  # encoded
    caption: str
    mirroring: sides.Mirroring
    positive_id: str
    lap: int

    def make_row(self) -> dict[str, Any]:
        """Return what a viewer needs of a pair (views.py: ROWS)."""
        columns = ("pair_id", "caption", "mirroring", "positive_id")
        return {name: getattr(self, name) for name in columns} | {"paraphrase": None}


class Banned(NamedTuple):
    """The images of valid and test: no training may see them, nor what is near to them."""

    equal: Set[str] = frozenset()  # their sha256
    near: HeldOut | None = None  # their thumbnails, those of blank ones apart


def read_banned(clean: Path) -> Banned:
    """Read what `validate` held out of the corpus in `clean`."""
    table = pairs.read_table(clean / "corpus/held_out.parquet", pairs.HELD_OUT)
    thumbnails = table["thumbnail"].drop_null().unique().to_pylist()
    near = HeldOut(collect_thumbnails(thumbnails)) if thumbnails else None
    return Banned(frozenset(table["sha256"].to_pylist()), near)


def read_limits(clean: Path) -> pairs.Limits:
    """Read what `validate` allows the rows of streamed shards to be."""
    return pairs.Limits(**read_json(clean / "corpus" / pairs.LIMITS, "run the stage `validate`"))


class StreamedViews:
    """A fresh view of each pair of one source's shards in each epoch (dataset.py: Views).

    listed: rows of `pairs.SHARDS`. limits: what puts a row of other sets into quarantine is skipped here. banned:
    what no training may see. Of a key with several captions each lap shows another one. `skipped`: reason, as in
    the quarantine, -> pairs of this epoch that were not shown; an image that proves broken or near to a banned one
    when it is decoded is counted by the process that trains on it.
    """

    def __init__(
        self, listed: list[dict[str, Any]], viewer: Viewer, limits: pairs.Limits, *, weight: float, banned: Banned
    ) -> None:
        self.decoders: list[Decoder] = [_StreamedDecoder(viewer, banned.near)]
        self._listed, self._viewer, self._limits = listed, viewer, limits
        self._weight, self._banned = weight, banned.equal
        self._pairs: int = sum(row["pairs"] for row in listed)
        self.skipped: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(compute_window(self._pairs, self._weight, 1))

    def plan(self, seed: int, epoch: int) -> Iterator[ViewSpec]:
        """Yield the views of the epoch's window on a walk around the shards; the walk goes on for skipped pairs.

        Raises UserError where a shard cannot be read, is not the listed one, or all shards hold no pair.
        """
        self.skipped.clear()
        places = compute_window(self._pairs, self._weight, epoch)
        walk, draw = self._walk(seed, places.start), random.Random(f"buffer:{seed}:{epoch}")
        missing, barren = len(places), 0
        while missing:
            for pair in shuffle_in_buffer(islice(walk, missing), draw):
                fit = self._fits(pair.image)
                barren = 0 if fit else barren + 1
                if barren > self._pairs:
                    raise self._make_error()
                if fit:
                    missing -= 1
                    yield self._make_spec(pair)

    def _walk(self, seed: int, start: int) -> Iterator[StreamedPair]:
        """Yield the pairs from place `start` on, without end; each lap takes the shards in another order."""
        lap, passed = divmod(start, self._pairs)
        while True:
            whole, any_pair = not passed, False
            for row in random.Random(f"shards:{seed}:{lap}").sample(self._listed, len(self._listed)):
                if passed >= row["pairs"]:
                    passed -= row["pairs"]
                    continue
                for sample in islice(read_shard(row), passed, None):
                    pair = self._select_pair(row, sample, lap)
                    if pair:
                        any_pair = True
                        yield pair
                passed = 0
            if whole and not any_pair:
                raise self._make_error()
            lap += 1

    def _select_pair(self, row: dict[str, Any], sample: Sample, lap: int) -> StreamedPair | None:
        short = [caption for caption in sample.captions if len(caption.strip()) <= self._limits.max_chars]
        captions = [caption for caption in short if text.normalise(caption)]
        reason = sample.fault
        if sample.image is None:
            reason = reason or "missing"
        elif not captions:
            reason = "empty" if len(short) == len(sample.captions) else "too_long"
        elif (digest := hashlib.sha256(sample.image).hexdigest()) in self._banned:
            reason = "in_valid_or_test"
        else:
            pair_id = f"{row['sha256']}/{sample.key}"  # not the address: equal shards give equal views anywhere
            mirroring = sides.choose_strictest(captions)
            return StreamedPair(pair_id, sample.image, captions[lap % len(captions)], mirroring, digest, lap)
        self.skipped[reason] += 1
        return None

    def _make_spec(self, pair: StreamedPair) -> ViewSpec:
        row, view = pair.make_row(), pair.lap + 1
        caption, flipped = self._viewer.plan(row, view)
        source = (pair.image, row, view)
        return ViewSpec(pair.pair_id, find_positive(row, flipped), caption, 0, source, self.skipped)

    def _fits(self, encoded: bytes) -> bool:
        """Return whether the image may be shown, by its header alone; the rest is read where the view is made."""
        try:
            reason = self._find_misfit(*open_image(encoded).size)
        except OSError:
            reason = "unreadable"
        if reason is not None:
            self.skipped[reason] += 1
        return reason is None

    def _find_misfit(self, width: int, height: int) -> str | None:
        if width * height > self._limits.max_pixels:
            return "too_large"
        if min(width, height) < self._limits.min_side_px:
            return "too_narrow" if width < height else "too_low"
        return None

    def _make_error(self) -> UserError:
        return UserError(
            f"{self._listed[0]['address']}, …: no pair of the shards of {self._listed[0]['source']} can be shown: "
            f"{dict(self.skipped)}; mend them, or take that source out of params.yaml: corpus"
        )


class _StreamedDecoder:
    """Makes fresh views of images that come with their specs."""

    def __init__(self, viewer: Viewer, banned: HeldOut | None) -> None:
        self._viewer, self._banned = viewer, banned

    def __call__(self, source: tuple[bytes, dict[str, Any], int]) -> Pixels | str:
        encoded, row, view = source
        try:
            pixels, reduced = decode_reduced(encoded, self._viewer.enough_px)
            if self._banned and _is_banned(encoded, self._banned):
                return "in_valid_or_test"
        except (OSError, ValueError):
            return "unreadable"
        return self._viewer.render(pixels, row, view, reduced).pixels


def _is_banned(encoded: bytes, banned: HeldOut) -> bool:
    """Return what `validate` would decide: it measures the same bytes. Raises what decoders raise."""
    look = measure_look(encoded)
    return not look.blank and banned.is_near(look.thumbnail)


def shuffle_in_buffer(stream: Iterable[StreamedPair], draw: random.Random) -> Iterator[StreamedPair]:
    """Yield the pairs in another order, drawn from a buffer of at most SHUFFLE_BUFFER_BYTES and one image more."""
    held: list[StreamedPair] = []
    size = 0

    def take() -> StreamedPair:
        index = draw.randrange(len(held))
        held[index], held[-1] = held[-1], held[index]
        return held.pop()

    for pair in stream:
        held.append(pair)
        size += len(pair.image)
        while size > SHUFFLE_BUFFER_BYTES:
            taken = take()
            size -= len(taken.image)
            yield taken
    while held:
        yield take()


def list_basic_characters() -> str:
    """Return the 6,763 Chinese characters and 682 signs of GB 2312, and ASCII, which spell nearly every caption.

    For the vocabulary of a fresh model where captions are streamed: reading them beforehand would cost a pass over
    all shards, and reading some shards alone would make the vocabulary depend on which these are.
    """
    codes = (bytes([high, low]) for high in range(0xA1, 0xF8) for low in range(0xA1, 0xFF))
    return "".join(code.decode("gb2312", "ignore") for code in codes) + bytes(range(0x21, 0x7F)).decode("ascii")
