"""Several views as one."""

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate

import pyarrow as pa

from tuwen.training.dataset import WHOLE, Decoder, ProcessShare, Views, ViewSpec


class MixedViews:
    """Several views as one: each pair comes from one of them by chance, in proportion to what they have left."""

    def __init__(self, parts: Sequence[Views]) -> None:
        self._parts, self.dealt = parts, any(part.dealt for part in parts)
        self.decoders: list[Decoder] = [decoder for part in parts for decoder in part.decoders]

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def list_names(self, seed: int) -> pa.Table | None:
        """Return those of all parts, None where one does not know its own."""
        names = [part.list_names(seed) for part in self._parts if len(part)]
        known = [table for table in names if table is not None]
        return pa.concat_tables(known) if len(known) == len(names) else None

    def plan(self, seed: int, epoch: int, *, share: ProcessShare = WHOLE, skip: int = 0) -> Iterator[ViewSpec]:
        """Yield a share of `len` views of each part, in the part's own order."""
        draw, left = random.Random(f"mixed:{seed}:{epoch}"), [_count_share(part, share) for part in self._parts]
        skipped = [0] * len(left)
        for _ in range(min(skip, sum(left))):
            chosen = _draw_part(draw, left)
            skipped[chosen] += 1
        parts = zip(self._parts, skipped, strict=True)
        streams = [part.plan(seed, epoch, share=share, skip=count) for part, count in parts]
        first = [0, *accumulate(len(part.decoders) for part in self._parts)]
        while any(left):
            chosen = _draw_part(draw, left)
            spec = next(streams[chosen])
            yield spec._replace(decoder=first[chosen] + spec.decoder)


def _draw_part(draw: random.Random, left: list[int]) -> int:
    """Draw a part in proportion to what it has left, which is one less afterwards."""
    (chosen,) = draw.choices(range(len(left)), left)
    left[chosen] -= 1
    return chosen


def _count_share(part: Views, share: ProcessShare) -> int:
    """Return the rows of a process: of dealt ones so many that all parts together never lack one."""
    return -(-len(part) // share.ranks) if part.dealt else len(range(share.rank, len(part), share.ranks))
