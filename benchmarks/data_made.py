"""What benchmarks/data.py measures with: made photographs, sets of them, and the lines of its table."""

import io
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image as Pillow

from tuwen.data.formats import manifest, pairs, shards

PHOTOS = 200
SIZE_PX = 224
CAPTIONS = [
    "一只猫在沙发上睡觉",
    "两个孩子在海边放风筝",
    "雨后的街道上停着一辆红色的公交车",
    "桌上放着一碗热腾腾的牛肉面",
]


def draw_photo(seed: int) -> bytes:
    """Return a JPEG of 640 x 480 with detail at every scale, as photographs have."""
    draw = np.random.default_rng(seed)
    pixels = np.zeros((480, 640, 3), np.float32)
    for side in (4, 16, 64, 256, 640):
        layer = draw.normal(size=(side * 3 // 4, side, 3)).astype(np.float32)
        pixels += cv2.resize(layer, (640, 480), interpolation=cv2.INTER_CUBIC) * 160 / side**0.33
    encoded = io.BytesIO()
    Pillow.fromarray(np.clip(pixels * 0.6 + 128, 0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=88)
    return encoded.getvalue()


def draw_small(shade: int) -> bytes:
    """Return a JPEG of 32 x 32."""
    encoded = io.BytesIO()
    Pillow.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3) + np.uint8(shade)).save(encoded, "JPEG")
    return encoded.getvalue()


def make_set(data: Path, name: str, rows: int, photos: list[bytes]) -> Path:
    """Write `data/<name>` with `rows` images and pairs over the bytes of `photos`."""
    with shards.ShardWriter(data, f"{name}/shards") as writer:
        members = [writer.add(f"{n}.jpg", encoded)._asdict() for n, encoded in enumerate(photos)]
    ids = [f"{n:07d}" for n in range(rows)]
    images = [{"image_id": f"{n}.jpg", "positive_id": n} | members[int(n) % len(members)] for n in ids]
    texts = [{"text_id": n, "caption": f"{CAPTIONS[int(n) % len(CAPTIONS)]}，第{int(n)}张"} for n in ids]
    links = [{"pair_id": n, "image_id": f"{n}.jpg", "text_id": n, "label": 1} for n in ids]
    tables = zip((images, texts, links), (pairs.IMAGES, pairs.TEXTS, pairs.PAIRS), strict=True)
    pairs.write_pair_set(data / name, pairs.PairSet(*(pa.Table.from_pylist(r, schema) for r, schema in tables)))
    manifest.write_manifest(data / name, {}, {})
    return data / name


def time_call(work: Callable[[], object]) -> float:
    """Return the wall time of one call in seconds."""
    start = time.monotonic()
    work()
    return time.monotonic() - start


def print_row(name: str, value: str, target: str) -> None:
    """Print one line of the table."""
    print(f"| {name} | {value} | {target} |", flush=True)
