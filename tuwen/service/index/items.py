"""What may be found: a row for each image and each text of the sets of an index, with what people filter by.

Columns from end to end: a dict for each of a million items would take gigabytes and minutes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tuwen.data.formats import pairs
from tuwen.retrieval.vectors import Rows
from tuwen.service.index.picture_sizes import measure_pictures

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


class ListedItems(NamedTuple):
    """The items of one side of a set, and the rows of its table that they are."""

    table: pa.Table  # ITEM_SCHEMA
    rows: Rows  # ascending


def list_items(data: Path, name: str, tables: pairs.PairSet) -> dict[str, ListedItems]:
    """Return by side the items of the set `name`.

    An image whose bytes the source could not give is none, nor is a text without a caption. data: the data root.
    Raises UserError where an image's bytes are missing or no image.
    """
    image, text = pairs.find_true_rows(tables)
    text_ids, captions = tables.texts["text_id"], tables.texts["caption"]
    shown = np.flatnonzero(tables.images["shard"].is_valid())
    seen = _describe_images(data, tables.images.take(shown))
    first_text = _find_first(image, text, len(tables.images))[shown]
    said = np.flatnonzero(pc.fill_null(pc.not_equal(captions, ""), False))
    first_image = _find_first(text, image, len(captions))[said]
    place = np.full(len(tables.images) + 1, -1)  # of an image among the seen; of row -1, which is no image, -1
    place[shown] = np.arange(len(shown))
    split = SPLIT_OF.get(name, name)
    images = _make_items(seen["image"], captions.take(_hide_none(first_text)), seen, split)
    its_image = seen.take(_hide_none(place[first_image]))
    texts = _make_items(text_ids.take(said), captions.take(said), its_image, split)
    return {"images": ListedItems(images, shown), "texts": ListedItems(texts, said)}


def _find_first(of: pairs.RowNumbers, other: pairs.RowNumbers, count: int) -> Rows:
    """Return for each of `count` rows of one side the first row of the other that it is paired with, or -1."""
    paired, place = np.unique(of, return_index=True)
    first = np.full(count, -1)
    first[paired] = other[place]
    return first


def _hide_none(rows: Rows) -> pa.Array:
    """Return rows to be taken, of which -1 gives null."""
    return pa.array(rows, mask=rows < 0)


def _describe_images(data: Path, images: pa.Table) -> pa.Table:
    """Return what an item has of its image; images: rows of pairs.IMAGES, all with a shard."""
    width, height = measure_pictures(data, images).T
    columns = {name: images[name] for name in ("source", "category", "shard", "offset", "size", "sha256")}
    return pa.table(columns | {"image": images["image_id"], "width_px": width, "height_px": height})


def _make_items(ids: pa.ChunkedArray, captions: pa.ChunkedArray, images: pa.Table, split: str) -> pa.Table:
    """Return items [N]; images [N]: of each its image as `_describe_images` has it, nulls where it has none."""
    source, chars = images["source"], pc.utf8_length(captions)
    is_labelled = pc.fill_null(pc.equal(source, ""), True)
    columns = {name: images[name] for name in images.column_names} | {
        "id": ids,
        "caption": captions,
        "source": pc.if_else(is_labelled, LABELLED_SOURCE, source),
        "split": pa.repeat(split, len(ids)),
        "caption_chars": pc.if_else(pc.equal(chars, 0), pa.scalar(None, chars.type), chars),
    }
    return pa.table(columns, schema=ITEM_SCHEMA)


def make_ids_unique(sets: Sequence[tuple[str, dict[str, pa.Table]]]) -> list[dict[str, pa.Table]]:
    """Return the items of each set, by side, with its name before the ids that an earlier set has too."""
    known = {side: pa.array([], pa.string()) for side in SIDES}
    unique = []
    for name, items in sets:
        ids = {side: items[side]["id"].combine_chunks() for side in SIDES}
        again = {side: ids[side].filter(pc.is_in(ids[side], known[side])) for side in SIDES}
        renamed = {}
        for side in SIDES:
            table = _rename(items[side], "id", again[side], name)
            renamed[side] = _rename(table, "image", again["images"], name)
            known[side] = pa.concat_arrays([known[side], table["id"].combine_chunks()])
        unique.append(renamed)
    return unique


def _rename(table: pa.Table, column: str, again: pa.Array, name: str) -> pa.Table:
    """Return the table with `<name>/` before the ids of a column that `again` holds."""
    ids = table[column].combine_chunks()
    new = pc.if_else(pc.is_in(ids, again), pc.binary_join_element_wise(name, ids, "/"), ids)
    return table.set_column(table.schema.get_field_index(column), table.schema.field(column), new)
