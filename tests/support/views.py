"""Clean sets to make views of: one drawing, turned a little further for each image, its bytes in raw shards."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from tuwen.core.params import Augment, NoParaphrase, Policy
from tuwen.data.formats import pairs, shards

POLICY = Policy(
    crop_scale=[0.7, 1.0],
    crop_ratio=[0.8, 1.25],
    flip=True,
    flip_captions="keep",
    rotate_degrees=15.0,
    zoom=[0.7, 1.1],
    colour=0.2,
    grey=0.1,
    outline=0.5,
    text=["shuffle_list", "drop_from_list"],
)
AUGMENT = Augment(
    seed=0,
    mode="stored",
    splits=["train"],
    views=8,
    jpeg_quality=95,
    policy=POLICY,
    paraphrase=NoParaphrase(kind="none"),
)


def draw_image() -> Image.Image:
    """Draw the left half red, the right half blue, a green band below: every change shows."""
    drawn = Image.new("RGB", (96, 96), "red")
    drawn.paste("blue", (48, 0, 96, 96))
    drawn.paste("green", (0, 80, 96, 96))
    return drawn


def write_clean(data: Path, captions: dict[str, list[str]], side_px: int = 96) -> Path:
    """Write `data/clean` with a set for each split: one image for each of its captions, images `<split>0`, …"""
    known: dict[str, Any] = {"group": None, "category": None}
    for split, column in captions.items():
        rows: list[list[dict[str, Any]]] = [[], [], []]
        with shards.ShardWriter(data, f"raw/labelled/{split}") as writer:
            for n, caption in enumerate(column):
                name, encoded = f"{split}{n}", io.BytesIO()
                draw_image().resize((side_px, side_px)).rotate(n * 7).save(encoded, "PNG")
                member = writer.add(f"{name}.png", encoded.getvalue())
                rows[0].append(known | {"image_id": name, "positive_id": name} | member._asdict())
                rows[1].append({"text_id": f"t{name}", "caption": caption})
                rows[2].append({"pair_id": f"p{name}", "image_id": name, "text_id": f"t{name}"})
        schemas = (pairs.IMAGES, pairs.TEXTS, pairs.PAIRS)
        tables = (pa.Table.from_pylist(r, schema) for r, schema in zip(rows, schemas, strict=True))
        pairs.write_pair_set(data / "clean" / split, pairs.PairSet(*tables))
    return data / "clean"


def read_contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a folder by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
