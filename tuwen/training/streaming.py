"""Corpus shards that stay where they are: read from end to end in each epoch, shuffled in a bounded buffer."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from itertools import islice
from typing import Any, NamedTuple

from tuwen.core.errors import UserError
from tuwen.core.params import Validate
from tuwen.data.augment.views import Viewer, find_positive
from tuwen.data.formats import text
from tuwen.data.formats.images import Pixels, decode_reduced, open_image
from tuwen.data.formats.tar_stream import Sample, read_shard
from tuwen.training.dataset import Ask, Maker, window

BUFFER_BYTES = 256 << 20  # of encoded pictures; about 3,000 of 85 kB


class Candidate(NamedTuple):
    """A pair as it stands in a shard: not decoded yet."""

    pair_id: str
    picture: bytes
    caption: str
    sided: bool
    positive_id: str
    lap: int

    def row(self) -> dict[str, Any]:
        """What a viewer asks for of a pair."""
        told = ("pair_id", "caption", "sided", "positive_id")
        return {name: getattr(self, name) for name in told} | {"paraphrase": None}


class StreamedViews:
    """A fresh view of each pair of one source's shards in each epoch (dataset.py: Views).

    listed: rows of `pairs.SHARDS`. limits: what takes a row out of other sets is skipped here. banned: sha256 of
    pictures that no training may see. Of a key with several captions each lap shows another one. `skipped`:
    reason, as in the quarantine, -> pairs of this epoch that were not shown; what proves broken only as it is
    decoded is counted by the process that asked for it.
    """

    def __init__(
        self, listed: list[dict[str, Any]], viewer: Viewer, limits: Validate, *, weight: float, banned: Set[str]
    ) -> None:
        self.makers: list[Maker] = [_Streamed(viewer)]
        self._listed, self._viewer, self._limits = listed, viewer, limits
        self._weight, self._banned = weight, banned
        self._pairs: int = sum(row["pairs"] for row in listed)
        self.skipped: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(window(self._pairs, self._weight, 1))

    def asked(self, seed: int, epoch: int) -> Iterator[Ask]:
        """The views of the epoch's window on a walk around the shards; those that are skipped make it go on.

        Raises UserError where a shard cannot be read, is not the listed one, or all shards hold no pair.
        """
        self.skipped.clear()
        places = window(self._pairs, self._weight, epoch)
        walk, draw = self._walk(seed, places.start), random.Random(f"buffer:{seed}:{epoch}")
        missing, barren = len(places), 0
        while missing:
            for found in shuffled(islice(walk, missing), draw):
                fit = self._fits(found.picture)
                barren = 0 if fit else barren + 1
                if barren > self._pairs:
                    raise self._hold_nothing()
                if fit:
                    missing -= 1
                    yield self._ask(found)

    def _walk(self, seed: int, start: int) -> Iterator[Candidate]:
        """The pairs from place `start` on, without end; each lap takes the shards in another order."""
        lap, passed = divmod(start, self._pairs)
        while True:
            whole, found = not passed, False
            for row in random.Random(f"shards:{seed}:{lap}").sample(self._listed, len(self._listed)):
                if passed >= row["pairs"]:
                    passed -= row["pairs"]
                    continue
                for sample in islice(read_shard(row), passed, None):
                    candidate = self._candidate(row, sample, lap)
                    if candidate:
                        found = True
                        yield candidate
                passed = 0
            if whole and not found:
                raise self._hold_nothing()
            lap += 1

    def _candidate(self, row: dict[str, Any], sample: Sample, lap: int) -> Candidate | None:
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
            sided = any(map(text.has_side_word, captions))
            return Candidate(pair_id, sample.image, captions[lap % len(captions)], sided, digest, lap)
        self.skipped[reason] += 1
        return None

    def _ask(self, found: Candidate) -> Ask:
        row, view = found.row(), found.lap + 1
        caption, flipped = self._viewer.told(row, view)
        source = (found.picture, row, view)
        return Ask(found.pair_id, find_positive(row, flipped), caption, 0, source, self.skipped)

    def _fits(self, encoded: bytes) -> bool:
        """By the header alone: the rest is read by the process that makes the view."""
        try:
            reason = self._unfit(*open_image(encoded).size)
        except OSError:
            reason = "unreadable"
        if reason is not None:
            self.skipped[reason] += 1
        return reason is None

    def _unfit(self, width: int, height: int) -> str | None:
        if width * height > self._limits.max_pixels:
            return "too_large"
        if min(width, height) < self._limits.min_side_px:
            return "too_narrow" if width < height else "too_low"
        return None

    def _hold_nothing(self) -> UserError:
        return UserError(
            f"{self._listed[0]['address']}, …: no pair of the shards of {self._listed[0]['source']} can be shown: "
            f"{dict(self.skipped)}; mend them, or take that source out of params.yaml: corpus"
        )


class _Streamed:
    """Makes fresh views of pictures that come with the asking."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer

    def __call__(self, source: tuple[bytes, dict[str, Any], int]) -> Pixels | None:
        encoded, row, view = source
        try:
            pixels, reduced = decode_reduced(encoded, self._viewer.enough_px)
        except OSError:
            return None
        return self._viewer.view(pixels, row, view, reduced).pixels


def shuffled(candidates: Iterable[Candidate], draw: random.Random) -> Iterator[Candidate]:
    """The candidates in another order, drawn from a buffer of at most BUFFER_BYTES and one picture more."""
    held: list[Candidate] = []
    size = 0

    def take() -> Candidate:
        index = draw.randrange(len(held))
        held[index], held[-1] = held[-1], held[index]
        return held.pop()

    for candidate in candidates:
        held.append(candidate)
        size += len(candidate.picture)
        while size > BUFFER_BYTES:
            taken = take()
            size -= len(taken.picture)
            yield taken
    while held:
        yield take()


def basic_characters() -> str:
    """The 6,763 Chinese characters and 682 signs of GB 2312, and ASCII: what nearly every caption is spelt with.

    For a vocabulary where captions cannot be read beforehand: those of streamed shards would cost a pass over all
    of them, and those of some shards alone would make it depend on which these are.
    """
    codes = (bytes([high, low]) for high in range(0xA1, 0xF8) for low in range(0xA1, 0xFF))
    return "".join(code.decode("gb2312", "ignore") for code in codes) + bytes(range(0x21, 0x7F)).decode("ascii")
