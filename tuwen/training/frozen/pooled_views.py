"""What frozen towers make of views, before their projections: computed once for each view and caption, and kept.

On a CPU images and captions go through the towers in blocks of one size, and captions of one length, so that the
vectors do not depend on what else is in a block, nor on where a training was resumed.
Shapes: B pairs of a batch, F numbers that the image tower pools, W width of the text tower, S pixels a side.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tuwen.data.formats import text
from tuwen.data.formats.images import Pixels, make_pixel_tensor
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.precision import set_frozen_precision
from tuwen.retrieval.encode import PIECE, stream_blocks
from tuwen.training.dataset import Views, ViewSpec
from tuwen.training.loader import hash_names
from tuwen.training.no_duplicates import split_into_batches

if TYPE_CHECKING:
    from tuwen.core.params import Fit

POOLED_BYTES = 1 << 30  # of what the image tower made; the rest is computed in each epoch
POOLED_AHEAD = 4096  # of an epoch that go through the towers before the first of them is stepped on
PooledRows = dict[Hashable, Tensor]


class PooledBatch(NamedTuple):
    """One step's input, B pairs: what both towers pooled, [B, F] and [B, W], and the names as in loader.Batch."""

    image: Tensor
    text: Tensor
    positive_id: Tensor
    caption_id: Tensor
    pair_ids: tuple[str, ...]


class PooledViews:
    """Views as the frozen towers of a model pool them; its state is what they computed up to now."""

    def __init__(self, views: Views, encoder: DualEncoder, tokenizer: Any, fit: "Fit") -> None:
        self._views, self._encoder, self._tokenizer, self._fit = views, encoder, tokenizer, fit
        self._images: PooledRows = {}
        self._texts: PooledRows = {}
        self._bytes = 0

    def load_batches(
        self, *, seed: int, epoch: int, first_step: int = 0, rank: int = 0, ranks: int = 1
    ) -> Iterator[PooledBatch]:
        """Yield the batches of one epoch, counted from 1, from `first_step` on: the rows of loader.load_batches.

        rank of ranks: the share of each batch that this process gets.
        """
        fit, share = self._fit, self._fit.batch_size // ranks
        planned = split_into_batches(
            self._views,
            self._tokenizer.simplify,
            size=fit.batch_size,
            steps=len(self._views) // fit.batch_size,
            seed=seed,
            epoch=epoch,
            first_step=first_step,
            apart=fit.siblings == "apart",
            report=rank == 0,
        )
        own = (batch[rank * share : (rank + 1) * share] for batch in planned)
        while batches := list(islice(own, max(1, POOLED_AHEAD // share))):
            images = self._pool_images(chain.from_iterable(batches))
            texts = self._pool_texts(spec.caption for batch in batches for spec in batch)
            for batch in batches:
                yield self._assemble(batch, images, texts)

    def _assemble(
        self, batch: list[ViewSpec], images: Mapping[Hashable, Tensor], texts: Mapping[Hashable, Tensor]
    ) -> PooledBatch:
        captions = [spec.caption for spec in batch]
        forms = text.normalise_captions(captions, self._tokenizer.simplify)
        return PooledBatch(
            torch.stack([images[_name(spec)] for spec in batch]),
            torch.stack([texts[caption] for caption in captions]),
            hash_names(spec.positive_id for spec in batch),
            hash_names(forms),
            tuple(spec.pair_id for spec in batch),
        )

    def _pool_images(self, specs: Iterable[ViewSpec]) -> PooledRows:
        """Return name -> vector [F] of the views, and keep them while there is room."""
        wanted = {_name(spec): spec for spec in specs}
        missing = {name: spec for name, spec in wanted.items() if name not in self._images}
        pixels = (self._decode(spec) for spec in missing.values())  # here: a decoder serves one thread
        blocks = stream_blocks(self._encoder, pixels, self._encode_images, self._fit.batch_size)
        made = dict(zip(missing, chain.from_iterable(blocks), strict=True))
        known = {name: made[name] if name in made else self._images[name] for name in wanted}
        for name, vector_F in made.items():
            if self._bytes < POOLED_BYTES:
                self._images[name] = vector_F
                self._bytes += vector_F.nbytes
        return known

    def _decode(self, spec: ViewSpec) -> Pixels:
        pixels = self._views.decoders[spec.decoder](spec.source)
        assert not isinstance(pixels, str)  # core/params/root.py: no shard is streamed
        return pixels

    def _encode_images(self, pixels: list[Pixels]) -> list[Tensor]:
        filled = _fill_block(pixels)
        with torch.no_grad(), set_frozen_precision(self._fit.precision):
            pooled_BF = self._encoder.pool_image(make_pixel_tensor(filled).to(choose_device()))
        return list(pooled_BF.float().cpu()[: len(pixels)])

    def _pool_texts(self, captions: Iterable[str]) -> PooledRows:
        """Return caption -> vector [W]; all are kept, since they are small beside those of their images."""
        missing = [caption for caption in dict.fromkeys(captions) if caption not in self._texts]
        by_length = defaultdict[int, list[str]](list)
        for caption in missing:
            ids, _ = text.tokenize(self._tokenizer, [caption], self._encoder.config["text"]["max_tokens"])
            by_length[ids.shape[1]].append(caption)
        for same in by_length.values():
            tokens = map(self._tokenize, _cut_blocks(same))
            encode = partial(_encode_first, self._encoder, self._fit)
            vectors = chain.from_iterable(stream_blocks(self._encoder, tokens, encode, 1))
            self._texts |= dict(zip(same, vectors, strict=False))  # the last block was filled up
        return self._texts

    def _tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        max_tokens = self._encoder.config["text"]["max_tokens"]
        ids_BL, mask_BL = text.tokenize(self._tokenizer, _fill_block(captions), max_tokens)
        return ids_BL, mask_BL


def _encode_first(encoder: DualEncoder, fit: "Fit", block: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    ((ids_BL, mask_BL),) = block
    with torch.no_grad(), set_frozen_precision(fit.precision):
        pooled_BW = encoder.pool_text(ids_BL.to(choose_device()), mask_BL)
    return list(pooled_BW.float().cpu())


def _name(spec: ViewSpec) -> Hashable:
    assert spec.key is not None  # a view of a streamed shard has none
    return spec.decoder, spec.key


def _cut_blocks(captions: Sequence[str]) -> Iterator[Sequence[str]]:
    return (captions[start : start + PIECE] for start in range(0, len(captions), PIECE))


def _fill_block(rows: Sequence[Any]) -> list[Any]:
    """Return PIECE rows or more, the last one repeated: kernels for fewer rows may round otherwise."""
    return [*rows, *[rows[-1]] * (PIECE - len(rows))]
