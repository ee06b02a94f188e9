"""Pairs -> embeddings: every picture and every text of a set as unit vectors, in the order of the tables."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tuwen import manifest, pairs, shards
from tuwen.errors import UserError
from tuwen.images import Pixels, decode, square, to_pixels
from tuwen.model import DualEncoder, device, load
from tuwen.params import Embed
from tuwen.progress import follow
from tuwen.text import load_tokenizer, tokenize

Vectors = np.ndarray[Any, np.dtype[np.float32]]


def embed(model_folder: Path, set_folder: Path, out: Path, params: Embed) -> None:
    """Write `images.npy` [I, D] and `texts.npy` [T, D], float32 unit rows, for the set in `set_folder`."""
    model = load(model_folder).to(device())
    tokenizer = load_tokenizer(model_folder / "vocab.txt")
    pair_set = pairs.read(set_folder)
    pictures = read_pictures(set_folder.parent.parent, pair_set, model.config["image"]["size_px"])
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "images.npy", embed_pictures(model, pictures, params.batch_size))
    captions = pair_set.texts["caption"].to_pylist()
    np.save(out / "texts.npy", embed_captions(model, tokenizer, captions, params.batch_size))
    manifest.write(out, {"model": model_folder, "set": set_folder}, params.model_dump())


def read_pictures(data: Path, pair_set: pairs.PairSet, size_px: int) -> list[Pixels]:
    """The set's pictures by the picture rule, uint8 [size_px, size_px, 3] each; `data` is the data root."""
    rows = pair_set.images.select(["image_id", "shard", "offset", "size"]).to_pylist()
    return [square(_read_picture(data, row), size_px) for row in follow(rows, "decode", len(rows))]


def _read_picture(data: Path, row: dict[str, Any]) -> Image.Image:
    try:
        return decode(shards.read(data, row["shard"], row["offset"], row["size"]))
    except OSError as error:
        raise UserError(
            f"{data / row['shard']}: picture {row['image_id']} cannot be decoded ({error}); "
            "mend or remove it in the source and run `dvc repro`"
        ) from None


@torch.inference_mode()
def embed_pictures(model: DualEncoder, pictures: list[Pixels], batch_size: int) -> Vectors:
    """uint8 squares -> unit vectors [I, D] float32."""
    model.eval()
    parts = [
        model.encode_image(to_pixels(pictures[start : start + batch_size]).to(device())).cpu().numpy()
        for start in range(0, len(pictures), batch_size)
    ]
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
