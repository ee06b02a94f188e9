"""Corpus shards that stay where they are: each process reads its part of them in each epoch, block by block."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from tuwen.core.errors import UserError
from tuwen.data.augment.views import Viewer, find_positive
from tuwen.data.formats import pairs, sides, text
from tuwen.data.formats.foreign_tar.tar_stream import Sample
from tuwen.data.formats.images import Pixels, decode_reduced, open_image
from tuwen.data.formats.json_file import read_json
from tuwen.data.formats.near_images.looks import measure_look
from tuwen.data.formats.near_images.near_looks import HeldOut, collect_thumbnails
from tuwen.training.dataset import WHOLE, Decoder, ProcessShare, ViewSpec, compute_window
from tuwen.training.streams.blocks import SpanBlock, SpanReader, copy_ahead, read_ahead
from tuwen.training.streams.dealing import Span, group_blocks, list_spans, split_window
from tuwen.training.streams.shard_copies import ShardCopies, open_shard_copies

SHUFFLE_BYTES = 128 << 20  # of a block of shards, about 1,500 pairs of 85 kB; two are held


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


class Mark(NamedTuple):
    """Where a block of an epoch began: at which row, its number, and what had been skipped before."""

    row: int
    block: int
    skipped: dict[str, int]


class _ReadBlock(NamedTuple):
    """The pairs of a block that may be shown, and why others may not."""

    pairs: list[StreamedPair]
    skipped: Counter[str]


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
    what no training may see. copies: of remote shards, for all sources of a process. Of a key with several
    captions each lap shows another one.
    """

    dealt = True

    def __init__(
        self,
        listed: list[dict[str, Any]],
        viewer: Viewer,
        limits: pairs.Limits,
        *,
        weight: float,
        banned: Banned,
        copies: ShardCopies | None = None,
    ) -> None:
        self.decoders: list[Decoder] = [_StreamedDecoder(viewer, banned.near)]
        self._listed, self._viewer, self._limits = listed, viewer, limits
        self._weight, self._banned = weight, banned.equal
        self._copies = copies or open_shard_copies()
        self._pairs: int = sum(row["pairs"] for row in listed)
        self._read, self._decoded = Counter[str](), Counter[str]()  # why pairs of the epoch were not shown
        self._epoch, self._share, self._marks = 0, WHOLE, list[Mark]()

    def __len__(self) -> int:
        return len(compute_window(self._pairs, self._weight, 1))

    def list_names(self, seed: int) -> None:
        """Return nothing: they stand in the shards."""

    def plan(self, seed: int, epoch: int, *, share: ProcessShare = WHOLE, skip: int = 0) -> Iterator[ViewSpec]:
        """Yield the views of a share of the epoch's window, from row `skip` on; others come for skipped pairs.

        Blocks of shards are read, shuffled and shown in turn; a thread reads one ahead. Where `set_state`
        knows the block of row `skip`, no earlier one is read. Raises UserError where a shard cannot be read,
        is not the listed one, or all shards hold no pair.
        """
        window = compute_window(self._pairs, self._weight, epoch)
        own = split_window(window, *share)
        last_row, barren = -(-len(window) // share.ranks), 0
        if self._epoch != epoch:
            self._decoded.clear()  # else it is resumed, and rows that were decoded are not decoded again
        if self._epoch != epoch or not skip:
            self._epoch, self._marks = epoch, []
        self._share = share
        mark = max((mark for mark in self._marks if mark.row <= skip), default=Mark(0, 0, {}))
        row, self._marks = mark.row, [one for one in self._marks if one.row < mark.row]
        self._read = Counter(mark.skipped)
        dealt = list(group_blocks(list_spans(self._listed, seed, own.start, own.stop), SHUFFLE_BYTES))
        # for skipped pairs come those that stand as far behind the window as the share is in it
        spare = list_spans(self._listed, seed, window.stop + own.start - window.start)
        more = chain.from_iterable(group_blocks([span], SHUFFLE_BYTES) for span in spare)
        for number, (block, read) in enumerate(self._read_blocks(dealt, more, mark.block), mark.block):
            self._marks.append(Mark(row, number, dict(self._read)))
            self._read.update(read.skipped)
            random.Random(f"block:{seed}:{epoch}:{share.rank}:{number}").shuffle(read.pairs)
            barren = 0 if read.pairs else barren + sum(span.pairs for span in block)
            if barren >= self._pairs:
                raise self._make_error()
            for pair in read.pairs[max(0, skip - row) : last_row - row]:
                yield self._make_spec(pair)
            row += len(read.pairs)
            if row >= last_row:
                return

    def _read_blocks(
        self, dealt: list[SpanBlock], more: Iterable[SpanBlock], first: int
    ) -> Iterator[tuple[SpanBlock, "_ReadBlock"]]:
        """Yield the blocks from number `first` on; those behind the dealt ones are read when they are wanted."""
        spare = islice(more, max(0, first - len(dealt)), None)
        blocks = chain(copy_ahead(dealt[first:], self._copies), spare)
        reader = SpanReader(self._copies)
        read = ((block, self._read_block(block, reader)) for block in blocks)
        yield from read_ahead(read, len(dealt) - first)

    def _read_block(self, block: SpanBlock, reader: SpanReader) -> "_ReadBlock":
        read = _ReadBlock([], Counter())
        for span in block:
            for sample in reader.read(span):
                pair, reason = self._select_pair(span, sample)
                if pair is None or (reason := self._find_misfit(pair.image)):
                    read.skipped[reason] += 1
                else:
                    read.pairs.append(pair)
        return read

    def get_state(self) -> dict[str, Any]:
        """Return where blocks of the epoch under way began and what was skipped, for this process's successor."""
        counts = {"read": dict(self._read), "decoded": dict(self._decoded)}
        marks = [tuple(mark) for mark in self._marks]
        return {"epoch": self._epoch, "share": tuple(self._share), "marks": marks, **counts}

    def set_state(self, state: dict[str, Any]) -> None:
        """Know what `get_state` returned."""
        self._epoch, self._share = state["epoch"], ProcessShare(*state["share"])
        self._marks = [Mark(*mark) for mark in state["marks"]]
        self._read, self._decoded = Counter(state["read"]), Counter(state["decoded"])

    def count_skipped(self, rank: int = 0) -> Counter[str]:
        """Return reason, as in the quarantine, -> pairs of this epoch that process `rank`, this one, did not show.

        Where every process reads all shards, process 0 alone counts what is seen before an image is decoded.
        """
        return self._decoded + (self._read if rank == self._share.rank else Counter())

    def _select_pair(self, span: Span, sample: Sample) -> tuple[StreamedPair | None, str]:
        """Return the pair that a sample is, or None and why it is none."""
        short = [caption for caption in sample.captions if len(caption.strip()) <= self._limits.max_chars]
        captions = [caption for caption in short if text.normalise(caption)]
        if sample.fault or sample.image is None:
            return None, sample.fault or "missing"
        if not captions:
            return None, "empty" if len(short) == len(sample.captions) else "too_long"
        digest = hashlib.sha256(sample.image).hexdigest()
        if digest in self._banned:
            return None, "in_valid_or_test"
        pair_id = f"{span.shard['sha256']}/{sample.key}"  # not the address: equal shards give equal views anywhere
        mirroring = sides.choose_strictest(captions)
        caption = captions[span.lap % len(captions)]
        return StreamedPair(pair_id, sample.image, caption, mirroring, digest, span.lap), ""

    def _make_spec(self, pair: StreamedPair) -> ViewSpec:
        row, view = pair.make_row(), pair.lap + 1
        caption, flipped = self._viewer.plan(row, view)
        source = (pair.image, row, view)
        return ViewSpec(pair.pair_id, find_positive(row, flipped), caption, 0, source, self._decoded)

    def _find_misfit(self, encoded: bytes) -> str:
        """Return why the image may not be shown, by its header alone; the rest is read where the view is made."""
        try:
            width, height = open_image(encoded).size
        except OSError:
            return "unreadable"
        if width * height > self._limits.max_pixels:
            return "too_large"
        if min(width, height) < self._limits.min_side_px:
            return "too_narrow" if width < height else "too_low"
        return ""

    def _make_error(self) -> UserError:
        return UserError(
            f"{self._listed[0]['address']}, …: no pair of the shards of {self._listed[0]['source']} can be shown: "
            f"{dict(self._read)}; mend them, or take that source out of params.yaml: corpus"
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
