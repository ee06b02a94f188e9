"""A small model whose projections can be trained alone, and drawn views with keys."""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import torch

from tests.support.training import SIZE_PX, TINY, caption, drawn, fit
from tuwen.core.params import Fit
from tuwen.data.formats.images import Pixels, decode_pixels, resize_to_square
from tuwen.data.formats.text import build_vocabulary
from tuwen.model import dual_encoder
from tuwen.training.dataset import WHOLE, Decoder, ProcessShare, ViewSpec, make_generator

ROWS = 24
VOCABULARY = build_vocabulary(map(caption, range(ROWS)))
IMAGE = {"kind": "vit", "size_px": SIZE_PX, "patch_px": 8, "width": 64, "layers": 1, "heads": 1, "mlp": 128}
IMAGE |= {"activation": "gelu", "eps": 1e-5, "patch_dropout": 0.5}


class KeyedViews:
    """Drawn images with their captions, shuffled by seed and epoch; counts how often each is decoded."""

    dealt = False

    def __init__(self) -> None:
        self.decoded = Counter[int]()
        self.decoders: list[Decoder] = [self._decode]

    def _decode(self, number: int) -> Pixels:
        self.decoded[number] += 1
        return resize_to_square(decode_pixels(drawn(number)), SIZE_PX)

    def __len__(self) -> int:
        return ROWS

    def list_names(self, seed: int) -> pa.Table:
        return pa.table({"positive_id": list(map(str, range(ROWS))), "caption": list(map(caption, range(ROWS)))})

    def plan(self, seed: int, epoch: int, *, share: ProcessShare = WHOLE, skip: int = 0) -> Iterator[ViewSpec]:
        order = torch.randperm(ROWS, generator=make_generator(seed, epoch)).tolist()
        for n in order[share.rank :: share.ranks][skip:]:
            yield ViewSpec(str(n), str(n), caption(n), 0, n, key=n)


def make_encoder() -> dual_encoder.DualEncoder:
    torch.manual_seed(7)
    return dual_encoder.DualEncoder(TINY | {"image": IMAGE, "vocabulary": len(VOCABULARY)})


def frozen_fit(**changes: object) -> Fit:
    """Settings of a training of the projections alone."""
    return fit(**{"freeze": "towers", "muon_lr": None, "batch_size": 8, "lr": 1e-2} | changes)
