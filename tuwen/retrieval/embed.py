"""Pairs -> embeddings: every picture and every text of a set as unit vectors, in the order of the tables.

On CPU each thread decodes a few pictures and embeds them by itself, with one thread of torch's own: nobody waits
for anybody, and the vectors do not depend on how many there are. On a GPU the threads decode ahead of it. A killed
run goes on from the parts that it left in `.cache/embed/<key>`, because DVC deletes outs before a run.
"""

import itertools
import os
import shutil
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
from tuwen.data.formats import manifest, shards
from tuwen.data.formats.images import Pixels, decode_pixels, make_pixel_tensor, resize_to_square
from tuwen.data.formats.text import load_tokenizer, tokenize
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder, load_model

if TYPE_CHECKING:  # pydantic and pyarrow are not needed to encode what the caller gives
    from tuwen.core.params import Embed
    from tuwen.data.formats.pairs import PairSet

Vectors = np.ndarray[Any, np.dtype[np.float32]]
Row = TypeVar("Row")
Made = TypeVar("Made")

AHEAD = 256  # pictures decoded while earlier ones are embedded
PIECE = 16  # rows that one thread embeds at once on CPU; more are slower there (docs/log.md)
PART = 512  # rows kept in one file: what is held in memory, and what a kill costs at most
WORK = Path(".cache/embed")
DECIDING_CODE = ("data/formats", "model", "retrieval/embed.py")


def embed_set(model_folder: Path, set_folder: Path, out: Path, params: "Embed") -> None:
    """Write `images.npy` [I, D] and `texts.npy` [T, D], float32 unit rows, for the set in `set_folder`.

    Memory holds a part of the vectors and the pictures being decoded, whatever the size of the set; the bytes
    depend neither on the workers nor on a kill between. Raises UserError where a picture cannot be decoded.
    """
    from tuwen.data.formats import pairs

    inputs, settings = {"model": model_folder, "set": set_folder}, params.model_dump()
    work = WORK / manifest.make_work_key(inputs, settings, DECIDING_CODE)
    model = load_model(model_folder).to(choose_device())
    tokenizer = load_tokenizer(model_folder / "vocab.txt")
    pair_set = pairs.read_pair_set(set_folder)
    rows = _picture_rows(pair_set)
    captions = [caption or "" for caption in pair_set.texts["caption"].to_pylist()]
    picture = partial(_picture, set_folder.parent.parent, model.config["image"]["size_px"])
    out.mkdir(parents=True, exist_ok=True)
    _write(
        out / "images.npy",
        work,
        (len(rows), model.config["dim"]),
        lambda start: stream_vectors(model, rows[start:], picture, params.batch_size),
    )
    _write(
        out / "texts.npy",
        work,
        (len(captions), model.config["dim"]),
        lambda start: _caption_vectors(model, tokenizer, captions[start:], params.batch_size),
    )
    manifest.write_manifest(out, inputs, settings)
    shutil.rmtree(work, ignore_errors=True)


def _write(
    out: Path, work: Path, shape: tuple[int, int], vectors_from: Callable[[int], Iterator[Vectors]]
) -> None:
    """What `vectors_from(first row)` yields as `out`, an array [rows, D]; parts that stand are not made again."""
    work.mkdir(parents=True, exist_ok=True)
    done = _standing(work, out.stem, shape)
    parts = [len(np.load(path, mmap_mode="r")) for path in done]
    rows, start = shape[0], sum(parts)
    if start:
        print(f"goes on after {start} of {rows} {out.stem}, found in {work}", flush=True)
    for vectors in _parts(follow(vectors_from(start), out.stem, None)):
        done.append(work / f"{out.stem}-{len(done):06d}.npy")
        np.save(work / "part.npy", vectors)
        os.replace(work / "part.npy", done[-1])  # whole or not at all
    with open(out, "wb") as file:  # the bytes of np.save, without holding all
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for path in done:
            np.load(path).tofile(file)


def _standing(work: Path, name: str, shape: tuple[int, int]) -> list[Path]:
    """The parts of an earlier run, up to the first that is missing or not whole."""
    found: list[Path] = []
    while (path := work / f"{name}-{len(found):06d}.npy").is_file():
        try:
            if np.load(path, mmap_mode="r").shape[1:] != shape[1:]:
                break
        except (ValueError, EOFError, OSError):  # the machine went down with it
            break
        found.append(path)
    return found


def _parts(blocks: Iterable[Vectors]) -> Iterator[Vectors]:
    """Whole blocks, joined to PART rows or just above."""
    held: list[Vectors] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= PART:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def read_images(data: Path, pair_set: "PairSet", size_px: int) -> list[Pixels]:
    """`stream_images` all at once, for those who go through them more than once."""
    return list(stream_images(data, pair_set, size_px))


def stream_images(data: Path, pair_set: "PairSet", size_px: int) -> Iterator[Pixels]:
    """The set's pictures by the picture rule, uint8 [size_px, size_px, 3] each; `data` is the data root.

    At most AHEAD of them are held. One that the source could not give, or that is broken and asks all the same, is
    white. Raises UserError where a picture that the tables hold cannot be decoded.
    """
    rows = _picture_rows(pair_set)
    yield from follow(_in_order(partial(_picture, data, size_px), rows, AHEAD), "decode", len(rows))


def _picture_rows(pair_set: "PairSet") -> list[dict[str, Any]]:
    return list(pair_set.images.select(["image_id", "shard", "offset", "size"]).to_pylist())


def _picture(data: Path, size_px: int, row: dict[str, Any]) -> Pixels:
    if row["shard"] is None:
        return np.full((size_px, size_px, 3), 255, np.uint8)
    encoded = shards.read_member(data, shards.Place.of(row))
    try:
        return resize_to_square(decode_pixels(encoded), size_px)
    except OSError as error:
        raise UserError(
            f"{data / row['shard']}: picture {row['image_id']} cannot be decoded ({error}); "
            "mend or remove it in the source and run `dvc repro`"
        ) from None


def embed_images(model: DualEncoder, pictures: Iterable[Pixels], batch_size: int) -> Vectors:
    """uint8 squares -> unit vectors [I, D] float32."""
    return _joined(model, _vectors(model, pictures, partial(_encode_pictures, model), batch_size))


def embed_captions(model: DualEncoder, tokenizer: Any, captions: list[str], batch_size: int) -> Vectors:
    """Captions -> unit vectors [T, D] float32."""
    return _joined(model, _caption_vectors(model, tokenizer, captions, batch_size))


def stream_vectors(
    model: DualEncoder, rows: Sequence[Row], picture: Callable[[Row], Pixels], batch_size: int
) -> Iterator[Vectors]:
    """Unit vectors [B, D] float32 of the pictures that `picture` decodes to squares, in order, block by block."""
    if choose_device() == "cpu":
        yield from _vectors(
            model, rows, lambda some: _encode_pictures(model, list(map(picture, some))), batch_size
        )
    else:
        yield from _vectors(model, _in_order(picture, rows, AHEAD), partial(_encode_pictures, model), batch_size)


def _caption_vectors(
    model: DualEncoder, tokenizer: Any, captions: Sequence[str], batch_size: int
) -> Iterator[Vectors]:
    size, longest = _block_rows(batch_size), model.config["text"]["max_tokens"]
    # here and not in the threads, since a tokenizer answers one at a time
    tokens = (tokenize(tokenizer, some, longest) for some in _batched(captions, size))
    yield from _vectors(model, tokens, lambda one: _encode_text(model, *one[0]), 1)


@torch.inference_mode()
def _encode_pictures(model: DualEncoder, pictures: Sequence[Pixels]) -> Vectors:
    found: Vectors = model.encode_image(make_pixel_tensor(list(pictures)).to(choose_device())).cpu().numpy()
    return found


@torch.inference_mode()
def _encode_text(model: DualEncoder, ids: torch.Tensor, mask: torch.Tensor) -> Vectors:
    found: Vectors = model.encode_text(ids.to(choose_device()), mask.to(choose_device())).cpu().numpy()
    return found


def _vectors(
    model: DualEncoder, items: Iterable[Row], encode: Callable[[list[Row]], Vectors], batch_size: int
) -> Iterator[Vectors]:
    """What `encode` makes of the items, block by block, in order."""
    model.eval()
    blocks = _batched(items, _block_rows(batch_size))
    if choose_device() != "cpu":
        yield from map(encode, blocks)
        return
    with _one_thread_of_torch():
        yield from _in_order(encode, blocks, 2 * count_workers())


def _block_rows(batch_size: int) -> int:
    return min(batch_size, PIECE) if choose_device() == "cpu" else batch_size


def _batched(items: Iterable[Row], size: int) -> Iterator[list[Row]]:
    stream = iter(items)
    while block := list(itertools.islice(stream, size)):
        yield block


def _joined(model: DualEncoder, blocks: Iterable[Vectors]) -> Vectors:
    return np.concatenate([np.empty((0, model.config["dim"]), np.float32), *blocks])


def _in_order(work: Callable[[Row], Made], items: Iterable[Row], ahead: int) -> Iterator[Made]:
    """`map` by threads, since decoding and torch leave Python's lock; at most `ahead` items are begun or held."""
    waiting: deque[Future[Made]] = deque()
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
def _one_thread_of_torch() -> Iterator[None]:
    """Threads that are started inside compute alone, so their sums do not depend on the cores either."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
