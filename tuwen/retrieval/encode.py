"""Images and captions -> unit vectors, or their tokens: decoded ahead by threads, encoded in blocks, in order.

On CPU each thread decodes a few images and encodes them itself, with a single thread of torch: no thread waits for
another, and the vectors do not depend on how many there are. On a GPU the threads decode ahead of it.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from tuwen.core.errors import UserError
from tuwen.core.executor import count_workers
from tuwen.core.progress import follow
from tuwen.data.formats import shards
from tuwen.data.formats.images import Pixels, decode_pixels, make_pixel_tensor
from tuwen.data.formats.picture_rule import PictureRule, resize_by_rule
from tuwen.data.formats.text import tokenize
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.precision import set_inference_precision
from tuwen.retrieval.vectors import Vectors

if TYPE_CHECKING:  # pyarrow is not needed to encode what the caller gives
    from tuwen.data.formats.pairs import PairSet

Element = TypeVar("Element")
Decoded = TypeVar("Decoded")
Result = TypeVar("Result")

AHEAD = 256  # images decoded while earlier ones are encoded
PIECE = 16  # rows that one thread encodes at once on CPU; more are slower there (docs/log.md)


def read_images(data: Path, pair_set: "PairSet", rule: PictureRule) -> list[Pixels]:
    """Return what `stream_images` yields as a list, for callers that iterate more than once."""
    return list(stream_images(data, pair_set, rule))


def stream_images(data: Path, pair_set: "PairSet", rule: PictureRule) -> Iterator[Pixels]:
    """Yield the set's images as a model sees them, uint8 [S, S, 3] each; `data` is the data root.

    At most AHEAD of them are held. One that the source could not give, or a query that is broken, is white. Raises
    UserError where an image that the tables hold cannot be decoded.
    """
    rows = list_image_rows(pair_set)
    yield from follow(_map_in_order(partial(decode_row, data, rule), rows, AHEAD), "decode", len(rows))


def list_image_rows(pair_set: "PairSet") -> list[dict[str, Any]]:
    """List what `decode_row` needs of each image: its id and where its bytes lie."""
    return list(pair_set.images.select(["image_id", "shard", "offset", "size"]).to_pylist())


def decode_row(data: Path, rule: PictureRule, row: dict[str, Any]) -> Pixels:
    """Decode the image of one row as a model sees it, white where it has no bytes; `data` is the data root."""
    if row["shard"] is None:
        return resize_by_rule(np.full((rule.size_px, rule.size_px, 3), 255, np.uint8), rule)
    encoded = shards.read_member(data, shards.Place.of(row))
    try:
        return resize_by_rule(decode_pixels(encoded), rule)
    except OSError as error:
        raise UserError(
            f"{data / row['shard']}: picture {row['image_id']} cannot be decoded ({error}); "
            "mend or remove it in the source and run `dvc repro`"
        ) from None


def embed_images(model: DualEncoder, images: Iterable[Pixels], batch_size: int) -> Vectors:
    """Return the unit vectors [I, D] float32 of uint8 squares."""
    return _join(model, stream_blocks(model, images, partial(_encode_images, model), batch_size))


def embed_captions(model: DualEncoder, tokenizer: Any, captions: list[str], batch_size: int) -> Vectors:
    """Return the unit vectors [T, D] float32 of captions."""
    return _join(model, stream_caption_vectors(model, tokenizer, captions, batch_size))


def pool_images(model: DualEncoder, images: Iterable[Pixels], batch_size: int) -> Vectors:
    """Return what the projection of the image tower reads, [I, F] float32, of uint8 squares."""
    return np.concatenate(list(stream_blocks(model, images, partial(_pool_images, model), batch_size)))


def pool_captions(model: DualEncoder, tokenizer: Any, captions: list[str], batch_size: int) -> Vectors:
    """Return what the projection of the text tower reads, [T, W] float32, of captions."""
    return np.concatenate(list(stream_pooled_captions(model, tokenizer, captions, batch_size)))


@torch.inference_mode()
def project_pooled(model: DualEncoder, images_IF: Vectors, texts_TW: Vectors) -> tuple[Vectors, Vectors]:
    """Return the unit vectors [I, D] and [T, D] of what `pool_images` and `pool_captions` returned."""
    device = choose_device()
    with set_inference_precision():
        images_ID = model.project_image(torch.from_numpy(images_IF).to(device)).cpu().numpy()
        return images_ID, model.project_text(torch.from_numpy(texts_TW).to(device)).cpu().numpy()


def stream_vectors(
    model: DualEncoder, rows: Sequence[Element], decode: Callable[[Element], Pixels], batch_size: int
) -> Iterator[Vectors]:
    """Yield unit vectors [B, D] float32 of the images that `decode` makes of the rows, in order, in blocks."""
    yield from stream_decoded(model, rows, decode, partial(_encode_images, model), batch_size)


def stream_pooled_images(
    model: DualEncoder, rows: Sequence[Element], decode: Callable[[Element], Pixels], batch_size: int
) -> Iterator[Vectors]:
    """Yield what the projection of the image tower reads, [B, F] float32, as `stream_vectors` yields vectors."""
    yield from stream_decoded(model, rows, decode, partial(_pool_images, model), batch_size)


def stream_decoded(
    model: torch.nn.Module,
    rows: Sequence[Element],
    decode: Callable[[Element], Decoded],
    encode: Callable[[list[Decoded]], Result],
    batch_size: int,
    ahead: int = AHEAD,
) -> Iterator[Result]:
    """Yield what `encode` makes, by `model`, of what `decode` makes of the rows, block by block, in order.

    ahead: how many rows may be decoded while a GPU encodes earlier ones.
    """
    if choose_device() == "cpu":
        yield from stream_blocks(model, rows, lambda block: encode(list(map(decode, block))), batch_size)
    else:
        yield from stream_blocks(model, _map_in_order(decode, rows, ahead), encode, batch_size)


def stream_caption_vectors(
    model: DualEncoder, tokenizer: Any, captions: Sequence[str], batch_size: int
) -> Iterator[Vectors]:
    """Yield unit vectors [B, D] float32 of the captions, in order, in blocks."""
    yield from stream_caption_blocks(model, tokenizer, captions, partial(encode_tokens, model), batch_size)


def stream_pooled_captions(
    model: DualEncoder, tokenizer: Any, captions: Sequence[str], batch_size: int
) -> Iterator[Vectors]:
    """Yield what the projection of the text tower reads, [B, W] float32, of the captions, in order, in blocks."""
    yield from stream_caption_blocks(model, tokenizer, captions, partial(_pool_text, model), batch_size)


def stream_caption_blocks(
    model: DualEncoder,
    tokenizer: Any,
    captions: Sequence[str],
    encode: Callable[[torch.Tensor, torch.Tensor], Result],
    batch_size: int,
) -> Iterator[Result]:
    """Yield what `encode` makes of the ids and masks [B, L] of the captions, block by block, in order."""
    size, max_tokens = count_block_rows(batch_size), model.config["text"]["max_tokens"]
    tokens = (tokenize(tokenizer, block, max_tokens) for block in _batch(captions, size))
    yield from stream_blocks(model, tokens, lambda block: encode(*block[0]), 1)


@torch.inference_mode()
def _encode_images(model: DualEncoder, images: Sequence[Pixels]) -> Vectors:
    pixels = make_pixel_tensor(list(images)).to(choose_device())
    with set_inference_precision():
        vectors: Vectors = model.encode_image(pixels).cpu().numpy()
    return vectors


@torch.inference_mode()
def _pool_images(model: DualEncoder, images: Sequence[Pixels]) -> Vectors:
    pixels = make_pixel_tensor(list(images)).to(choose_device())
    with set_inference_precision():
        vectors: Vectors = model.pool_image(pixels).float().cpu().numpy()
    return vectors


@torch.inference_mode()
def _pool_text(model: DualEncoder, ids: torch.Tensor, mask: torch.Tensor) -> Vectors:
    with set_inference_precision():
        vectors: Vectors = model.pool_text(ids.to(choose_device()), mask).float().cpu().numpy()
    return vectors


@torch.inference_mode()
def encode_tokens(model: DualEncoder, ids: torch.Tensor, mask: torch.Tensor) -> Vectors:
    """Return the unit vectors [B, D] float32 of tokenized captions: ids and mask [B, L]."""
    with set_inference_precision():
        vectors: Vectors = model.encode_text(ids.to(choose_device()), mask).cpu().numpy()
    return vectors


def stream_blocks(
    model: torch.nn.Module, items: Iterable[Element], encode: Callable[[list[Element]], Result], batch_size: int
) -> Iterator[Result]:
    """Yield what `encode` makes of the items by `model`, block by block, in order; on a CPU by threads."""
    model.eval()
    blocks = _batch(items, count_block_rows(batch_size))
    if choose_device() != "cpu":
        yield from map(encode, blocks)
        return
    with use_one_thread_of_torch():
        yield from _map_in_order(encode, blocks, 2 * count_workers())


def count_block_rows(batch_size: int) -> int:
    """Return how many rows are encoded at once."""
    return min(batch_size, PIECE) if choose_device() == "cpu" else batch_size


def _batch(items: Iterable[Element], size: int) -> Iterator[list[Element]]:
    stream = iter(items)
    while block := list(itertools.islice(stream, size)):
        yield block


def _join(model: DualEncoder, blocks: Iterable[Vectors]) -> Vectors:
    return np.concatenate([np.empty((0, model.config["dim"]), np.float32), *blocks])


def _map_in_order(work: Callable[[Element], Result], items: Iterable[Element], ahead: int) -> Iterator[Result]:
    """Map by threads, since decoding and torch release Python's lock; at most `ahead` items are begun or held."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(count_workers()) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) == ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def use_one_thread_of_torch() -> Iterator[None]:
    """Let each thread that computes inside do so alone, so that sums do not depend on the cores either."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
