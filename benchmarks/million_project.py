"""A project up to its embeddings, of any number of pairs: what million_index.py builds an index of.

Pictures are eight small JPEGs that all rows point at, vectors are made ones in clusters, and the model is one of
given vectors, so that the service answers for them.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.made_vectors import DIMENSIONS, fill_with_clusters
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.json_file import write_json
from tuwen.data.formats.shards import ShardWriter
from tuwen.model.adapter import Adapter, save_adapter

SETS = ("test", "bank")
PICTURES, CATEGORIES = 8, 10
VALID = 1000


def make_project(root: Path, count: int) -> None:
    """Write data, model, embeddings and results of `count` pairs into `root`; a tenth are of the first set.

    And a valid set, whose queries tell how sure first answers are among them.
    """
    draw, given, model = np.random.default_rng(0), root / "given", root / "models/finetuned"
    with ShardWriter(root / "data", "raw/labelled/shards") as writer:
        members = [writer.add(f"{n}.jpg", draw_jpeg(draw, n)) for n in range(PICTURES)]
    given.mkdir()
    for side in ("images", "texts"):
        np.save(given / f"{side}.npy", np.eye(1, DIMENSIONS, dtype=np.float32))
        (given / f"{side}.txt").write_text("0\n", encoding="utf-8")
    save_adapter(Adapter(DIMENSIONS), given, model)  # its heads leave vectors as they are
    manifest.write_manifest(model, {}, {})
    curve = {"cosine": {"slope": 3.0, "intercept": -1.0}}
    (root / "results/finetuned").mkdir(parents=True)
    write_json(root / "results/finetuned/details.json", {"calibration": dict.fromkeys(("t2i", "i2t"), curve)})
    sizes = (count // 10, count - count // 10, min(VALID, count))
    for number, (name, rows) in enumerate(zip((*SETS, "valid"), sizes, strict=True)):
        clean, embedded = root / "data/clean" / name, root / "embeddings/finetuned" / name
        write_tables(clean, rows, members)
        embedded.mkdir(parents=True)
        for side, seed in (("images", 2 * number), ("texts", 2 * number + 1)):
            path, shape = embedded / f"{side}.npy", (rows, DIMENSIONS)
            fill_with_clusters(np.lib.format.open_memmap(path, "w+", np.float32, shape), seed)
        manifest.write_manifest(embedded, {"model": model, "set": clean}, {})


def draw_jpeg(draw: np.random.Generator, number: int) -> bytes:
    """Return a small picture, about 9 kB, of a size of its own."""
    with io.BytesIO() as file:
        size = (120 + 8 * number, 160, 3)
        Image.fromarray(draw.integers(0, 255, size, np.uint8)).save(file, "JPEG", quality=75)
        return file.getvalue()


def write_tables(folder: Path, rows: int, members: list[Any]) -> None:
    """Write the tables of a set of pairs; both sets number theirs from 0, so that ids must be made unique."""
    numbers = [f"{n:07d}" for n in range(rows)]
    ids = pa.array(numbers)
    drawn = pa.array(np.arange(rows) % len(members))
    places = pa.Table.from_pylist([one._asdict() for one in members]).take(drawn)
    columns: dict[str, Any] = {name: pa.nulls(rows, pairs.IMAGES.field(name).type) for name in pairs.IMAGES.names}
    columns |= {"image_id": ids, "positive_id": ids, "file": ids}
    columns |= {"category": pa.array([f"类{n % CATEGORIES}" for n in range(rows)])}
    columns |= {name: places[name] for name in places.column_names}
    images = pa.table(columns, schema=pairs.IMAGES)
    captions = pa.array([f"第{n}张照片,窗台上有一只猫" for n in numbers])
    texts = pa.table({"text_id": ids, "caption": captions, "file": ids, "row": pa.nulls(rows, pa.int64())})
    paired = {"pair_id": ids, "image_id": ids, "text_id": ids, "label": pa.nulls(rows, pa.int8())}
    both = pa.table(paired | {"file": ids, "row": pa.nulls(rows, pa.int64())})
    pairs.write_pair_set(folder, pairs.PairSet(images, texts.cast(pairs.TEXTS), both.cast(pairs.PAIRS)))
