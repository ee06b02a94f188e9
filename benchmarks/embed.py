"""Images a second of `embed`, against what decoding and forward passes done one after the other would give.

    .venv/bin/python benchmarks/embed.py [sample | b16]

Run it alone on the machine. The target is 0.95 of 1 / (1 / forward + 1 / decode), all measured in this run, each
with all cores: forward over ready batches by torch's own threads, at the better of two batch sizes; decode by one
thread a core. Shapes: the sample's model on PNGs of 144 px, and a ViT-B/16 on JPEGs of 640 x 480; weights and
images are random.
"""

import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from tuwen.core.executor import count_workers
from tuwen.core.params import Embed
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.images import decode_pixels, make_pixel_tensor, resize_to_square
from tuwen.data.formats.shards import ShardWriter
from tuwen.data.formats.text import build_vocabulary
from tuwen.model import dual_encoder
from tuwen.retrieval import embed, encode

TARGET = 0.95
ROUNDS = 2
CAPTION = "雨后的街道上,一只橘猫趴在书店门口"
SHAPES: dict[str, dict[str, Any]] = {
    "sample": {
        "images": 3072,
        "batch_size": 256,
        "size": (144, 144),
        "format": "PNG",
        "image": {"size_px": 64, "patch_px": 8, "width": 192, "layers": 4, "patch_dropout": 0.5},
    },
    "b16": {
        "images": 64,
        "batch_size": 32,
        "size": (640, 480),
        "format": "JPEG",
        "image": {"size_px": 224, "patch_px": 16, "width": 768, "layers": 12, "patch_dropout": 0.0},
    },
}


def main() -> None:
    """Measure and print."""
    for name in sys.argv[1:] or SHAPES:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            measure(name, **SHAPES[name])


def measure(
    name: str, images: int, batch_size: int, size: tuple[int, int], format: str, image: dict[str, Any]
) -> None:
    """Measure one shape ROUNDS times; the best of each is compared."""
    make_model(Path("models/m"), image)
    encoded = make_set(Path("data"), images, size, format)
    encoder = dual_encoder.load_model(Path("models/m"))
    side_px = image["size_px"]

    def decode() -> list[Any]:
        with ThreadPoolExecutor(count_workers()) as pool:
            return list(pool.map(lambda data: resize_to_square(decode_pixels(data), side_px), encoded))

    squares = decode()
    forward(encoder, squares, batch_size)  # the first pass finds its memory
    rates: dict[str, list[float]] = {"forward": [], "decode": [], "embed": []}
    for _ in range(ROUNDS):
        rates["forward"] += [images / forward(encoder, squares, size) for size in (encode.PIECE, batch_size)]
        rates["decode"].append(rate(images, decode))
        rates["embed"].append(rate(images, lambda: whole(batch_size)))
    best = {part: max(measured) for part, measured in rates.items()}
    bound = 1 / (1 / best["forward"] + 1 / best["decode"])
    print(
        f"{name}: forward {best['forward']:.1f}/s, decode {best['decode']:.1f}/s, in turn {bound:.1f}/s; "
        f"embed {best['embed']:.1f}/s, {best['embed'] / bound:.3f} of it, at least {TARGET}",
        f"({count_workers()} workers, {torch.get_num_threads()} threads of torch, {os.cpu_count()} cores)",
        flush=True,
    )


@torch.inference_mode()
def forward(encoder: dual_encoder.DualEncoder, squares: list[Any], size: int) -> float:
    """Return the seconds of the image tower alone."""
    ready = [make_pixel_tensor(squares[start : start + size]) for start in range(0, len(squares), size)]
    start = time.perf_counter()
    for pixels in ready:
        encoder.encode_image(pixels)
    return time.perf_counter() - start


def whole(batch_size: int) -> None:
    """Run the stage's own function: loading the model, reading, decoding, embedding, parts, files, manifest."""
    embed.embed_set(
        Path("models/m"), Path("data/clean/t2i"), Path("embeddings"), Embed(batch_size=batch_size, dtype="float32")
    )


def rate(images: int, work: Callable[[], Any]) -> float:
    """Return images a second."""
    start = time.perf_counter()
    work()
    return images / (time.perf_counter() - start)


def make_model(folder: Path, image: dict[str, Any]) -> None:
    """Write a model folder with random weights and a small text tower."""
    vocabulary = build_vocabulary([CAPTION])
    text = {"width": 64, "layers": 1, "dropout": 0.0, "max_tokens": 32}
    torch.manual_seed(0)
    config = {"dim": 256, "image": image, "text": text, "vocabulary": len(vocabulary)}
    dual_encoder.save_model(dual_encoder.DualEncoder(config), folder, vocabulary)
    manifest.write_manifest(folder, {}, {})


def make_set(data: Path, images: int, size: tuple[int, int], format: str) -> list[bytes]:
    """Write `data/clean/t2i` with one caption and 64 different images in turn; return their bytes in order."""
    random = np.random.default_rng(0)
    kinds = []
    for _ in range(64):
        drawn = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(size)
        with io.BytesIO() as file:
            drawn.save(file, format)
            kinds.append(file.getvalue())
    encoded = [kinds[n % 64] for n in range(images)]
    with ShardWriter(data, "raw/t2i/shards") as writer:
        rows = [{"image_id": f"{n}"} | writer.add(f"{n}", one)._asdict() for n, one in enumerate(encoded)]
    texts = pa.Table.from_pylist([{"text_id": "1", "caption": CAPTION}], pairs.TEXTS)
    images = pa.Table.from_pylist(rows, pairs.IMAGES)
    pairs.write_pair_set(data / "clean/t2i", pairs.PairSet(images, texts, pairs.PAIRS.empty_table()))
    manifest.write_manifest(data / "clean/t2i", {}, {})
    return encoded


if __name__ == "__main__":
    main()
