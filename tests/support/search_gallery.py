"""A gallery of many drawn images, where a page has something to scroll through."""

from pathlib import Path

import pyarrow as pa

from tests.support.retrieval import COLOURS, SHAPES, draw
from tuwen.data.formats import pairs
from tuwen.data.formats.shards import ShardWriter


def write_gallery(root: Path, count: int, hostile: str) -> None:
    """Make the corpus of the project in `root` a gallery of `count` drawn images of many shapes, a text for each.

    hostile: the caption of the first image.
    """
    concepts = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    images, texts, rows = [], [], []
    with ShardWriter(root / "data", "raw/corpus/art/shards") as writer:
        for n in range(count):
            colour, shape = concepts[n % len(concepts)]
            image_id, text_id = f"gallery/{n:03d}.png", f"gallery-{n:03d}"
            caption = f"一个{colour}的{shape},画在第{n}张纸上" if n else hostile
            encoded = draw(COLOURS[colour], shape, (144 + 36 * (n % 5), 144 + 24 * (n % 3)))
            place = writer.add(image_id, encoded)._asdict()
            images.append({"image_id": image_id, "source": "art", "category": shape, "group": text_id} | place)
            texts.append({"text_id": text_id, "caption": caption})
            rows.append({"pair_id": text_id, "image_id": image_id, "text_id": text_id})
    tables = (
        pa.Table.from_pylist(own, schema)
        for own, schema in ((images, pairs.IMAGES), (texts, pairs.TEXTS), (rows, pairs.PAIRS))
    )
    pairs.write_pair_set(root / "data/clean/corpus", pairs.PairSet(*tables))
