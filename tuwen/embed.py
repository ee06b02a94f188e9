"""Pairs -> embeddings: every picture and every text of a set as unit vectors, in the order of the tables."""

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tuwen import manifest, pairs, shards
from tuwen.errors import UserError
from tuwen.executor import workers
from tuwen.images import Pixels, decode_pixels, square, to_pixels
from tuwen.model import DualEncoder, device, load
from tuwen.params import Embed
from tuwen.progress import follow
from tuwen.text import load_tokenizer, tokenize

Vectors = np.ndarray[Any, np.dtype[np.float32]]

AHEAD = 256  # pictures decoded while earlier ones are embedded


def embed(model_folder: Path, set_folder: Path, out: Path, params: Embed) -> None:
    """Write `images.npy` [I, D] and `texts.npy` [T, D], float32 unit rows, for the set in `set_folder`.

    Pictures are decoded as they are needed, so memory grows with D numbers per picture and not with its pixels.
    """
    model = load(model_folder).to(device())
    tokenizer = load_tokenizer(model_folder / "vocab.txt")
    pair_set = pairs.read(set_folder)
    pictures = stream_pictures(set_folder.parent.parent, pair_set, model.config["image"]["size_px"])
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "images.npy", embed_pictures(model, pictures, params.batch_size))
    captions = [caption or "" for caption in pair_set.texts["caption"].to_pylist()]
    np.save(out / "texts.npy", embed_captions(model, tokenizer, captions, params.batch_size))
    manifest.write(out, {"model": model_folder, "set": set_folder}, params.model_dump())


def read_pictures(data: Path, pair_set: pairs.PairSet, size_px: int) -> list[Pixels]:
    """`stream_pictures` all at once, for those who go through them more than once."""
    return list(stream_pictures(data, pair_set, size_px))


def stream_pictures(data: Path, pair_set: pairs.PairSet, size_px: int) -> Iterator[Pixels]:
    """The set's pictures by the picture rule, uint8 [size_px, size_px, 3] each; `data` is the data root.

    At most AHEAD of them are held. One that the source could not give, or that is broken and asks all the same, is
    white. Raises UserError where a picture that the tables hold cannot be decoded.
    """
    rows = pair_set.images.select(["image_id", "shard", "offset", "size"]).to_pylist()
    chunks = [rows[start : start + AHEAD] for start in range(0, len(rows), AHEAD)]
    with ThreadPoolExecutor(workers()) as pool:  # threads: decoding and resizing leave Python's lock
        squares = (one for chunk in chunks for one in pool.map(partial(_picture, data, size_px), chunk))
        yield from follow(squares, "decode", len(rows))


def _picture(data: Path, size_px: int, row: dict[str, Any]) -> Pixels:
    if row["shard"] is None:
        return np.full((size_px, size_px, 3), 255, np.uint8)
    encoded = shards.read(data, row["shard"], row["offset"], row["size"])
    try:
        return square(decode_pixels(encoded), size_px)
    except OSError as error:
        raise UserError(
            f"{data / row['shard']}: picture {row['image_id']} cannot be decoded ({error}); "
            "mend or remove it in the source and run `dvc repro`"
        ) from None


@torch.inference_mode()
def embed_pictures(model: DualEncoder, pictures: Iterable[Pixels], batch_size: int) -> Vectors:
    """uint8 squares -> unit vectors [I, D] float32."""
    model.eval()
    stream, parts = iter(pictures), []
    while batch := list(itertools.islice(stream, batch_size)):
        parts.append(model.encode_image(to_pixels(batch).to(device())).cpu().numpy())
    return np.concatenate(parts) if parts else np.empty((0, model.config["dim"]), np.float32)


@torch.inference_mode()
def embed_captions(model: DualEncoder, tokenizer: Any, captions: list[str], batch_size: int) -> Vectors:
    """Captions -> unit vectors [T, D] float32."""
    model.eval()
    longest = model.config["text"]["max_tokens"]
    parts = [
        model.encode_text(
            *(t.to(device()) for t in tokenize(tokenizer, captions[start : start + batch_size], longest))
        )
        .cpu()
        .numpy()
        for start in range(0, len(captions), batch_size)
    ]
    return np.concatenate(parts) if parts else np.empty((0, model.config["dim"]), np.float32)
