"""What may be found: a row for each image and each text of the sets of an index, with what people filter by."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tuwen.core.errors import UserError
from tuwen.core.executor import count_workers
from tuwen.core.progress import follow
from tuwen.data.formats import pairs, shards
from tuwen.data.formats.images import open_image, read_orientation
from tuwen.retrieval.vectors import Rows

SIDES = ("images", "texts")  # of a set, and of an index
LABELLED_SOURCE = "labelled"  # the source of what is not of the corpus, as its raw set is called
SPLIT_OF = {"bank": "train"}  # of a set whose name is no split: the labelled pairs outside valid and test
ITEM_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # unique on its side
        ("caption", pa.string()),  # of an image the first that belongs to it; null where there is none
        ("image", pa.string()),  # of a text the id of the first image that it belongs to; of an image its own
        ("source", pa.string()),  # LABELLED_SOURCE, or the name in params.yaml's corpus
        ("category", pa.string()),  # null where the source has none
        ("split", pa.string()),  # train, valid, test or corpus
        ("width_px", pa.int32()),  # of the upright image; of a text, of its image
        ("height_px", pa.int32()),
        ("caption_chars", pa.int32()),
        ("shard", pa.string()),  # where the image's bytes lie, as in pairs.IMAGES
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
    ]
)
VALUE_COLUMNS = ("source", "category", "split")  # that filters name values of
RANGE_COLUMNS = ("width_px", "height_px", "caption_chars")  # that filters give a range of


IndexItem = dict[str, Any]  # a row of ITEM_SCHEMA


def list_items(data: Path, name: str, tables: pairs.PairSet) -> dict[str, tuple[list[IndexItem], Rows]]:
    """Return by side the items of the set `name` and the rows of its table that they are.

    An image whose bytes the source could not give is none, nor is a text without a caption. data: the data root.
    Raises UserError where an image's bytes are missing or no image.
    """
    image, text = pairs.find_true_rows(tables)
    first_text, first_image = _find_first(image, text), _find_first(text, image)
    captions, rows = tables.texts["caption"].to_pylist(), tables.images.to_pylist()
    shown = [row for row, one in enumerate(rows) if one["shard"] is not None]
    sizes = _measure_sizes(data, [rows[row] for row in shown])
    split = SPLIT_OF.get(name, name)
    seen = {row: _describe(rows[row], size, split) for row, size in zip(shown, sizes, strict=True)}
    unseen = _describe({}, (None, None), split)
    images = [
        _add_caption(one, captions[first_text[row]] if row in first_text else None) for row, one in seen.items()
    ]
    said = [row for row, caption in enumerate(captions) if caption]
    text_ids = tables.texts["text_id"].to_pylist()
    texts = [
        _add_caption(seen.get(first_image.get(row, -1), unseen), captions[row]) | {"id": text_ids[row]}
        for row in said
    ]
    return {"images": (images, np.array(shown, np.int64)), "texts": (texts, np.array(said, np.int64))}


def _describe(row: dict[str, Any], size_px: tuple[int | None, int | None], split: str) -> IndexItem:
    """Return an image as an item that lacks its caption."""
    kept = {name: row.get(name) for name in ("category", "shard", "offset", "size", "sha256")}
    named = dict.fromkeys(("id", "image"), row.get("image_id")) | {"source": row.get("source") or LABELLED_SOURCE}
    return kept | named | {"split": split, "width_px": size_px[0], "height_px": size_px[1]}


def _add_caption(item: IndexItem, caption: str | None) -> IndexItem:
    return item | {"caption": caption, "caption_chars": len(caption) if caption else None}


def make_ids_unique(sets: Sequence[tuple[str, dict[str, list[IndexItem]]]]) -> None:
    """Put a set's name before the ids, in place, that an earlier set has too; sets: name -> items by side."""
    known: dict[str, set[str]] = {side: set() for side in SIDES}
    for name, items in sets:
        again = {
            side: {one["id"]: f"{name}/{one['id']}" for one in items[side] if one["id"] in known[side]}
            for side in SIDES
        }
        for side in SIDES:
            for one in items[side]:
                one["id"] = again[side].get(one["id"], one["id"])
                one["image"] = again["images"].get(one["image"], one["image"])
                known[side].add(one["id"])


def _find_first(of: pairs.RowNumbers, other: pairs.RowNumbers) -> dict[int, int]:
    """Return for each row of one side the first row of the other that it is paired with."""
    return dict(zip(of[::-1].tolist(), other[::-1].tolist(), strict=True))


def _measure_sizes(data: Path, rows: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    with ThreadPoolExecutor(count_workers()) as pool:
        return list(follow(pool.map(partial(_measure_size, data), rows), "measure", len(rows)))


def _measure_size(data: Path, row: dict[str, Any]) -> tuple[int, int]:
    """Return width and height of an image as it stands upright, by its header."""
    try:
        image = open_image(shards.read_member(data, shards.Place.of(row)))
    except OSError as error:
        raise UserError(
            f"{data / row['shard']}: picture {row['image_id']} cannot be opened ({error}); "
            "mend or remove it in the source and run `dvc repro`"
        ) from None
    width, height = image.size
    is_lying = image.format == "JPEG" and read_orientation(image) >= 5  # any other would be decoded for it
    return (height, width) if is_lying else (width, height)
