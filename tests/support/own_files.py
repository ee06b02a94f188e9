"""Files as somebody has them, before any setting is written: pictures, and tables that name them."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

DISHES = ("红烧肉", "清蒸鲈鱼", "番茄炒鸡蛋", "麻婆豆腐", "宫保鸡丁", "酸辣土豆丝", "干煸四季豆", "皮蛋瘦肉粥")


def encode_photo(seed: int, side_px: int = 48) -> bytes:
    """A JPEG of 36 coloured squares."""
    squares = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(squares).resize((side_px, side_px), Image.Resampling.NEAREST).save(buffer, "JPEG")
    return buffer.getvalue()


def write_photos(folder: Path, count: int) -> list[str]:
    """Write 0.jpg, 1.jpg, …; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(encode_photo(number))
    return names


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV, as spreadsheets do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
