"""What may be found: captions, what is missing, names that are unique."""

import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from tests.support.retrieval import make_set
from tuwen.data.formats import pairs
from tuwen.data.formats.shards import ShardWriter
from tuwen.service.index.items import ITEM_SCHEMA, SPLIT_OF, list_items, make_ids_unique

SIZE = (40, 30)


def test_an_item_says_what_people_filter_by(tmp_path: Path) -> None:
    tables = make_set(tmp_path, "clean/bank")
    listed = list_items(tmp_path, "bank", tables)
    images, rows = listed["images"].table.to_pylist(), listed["images"].rows
    assert rows.tolist() == list(range(12))
    first = images[0] | {"shard": None, "offset": None, "size": None, "sha256": None}
    assert first == {
        **{"id": "图00.png", "image": "图00.png", "caption": "一个红色的圆形", "source": "labelled"},
        **{"category": None, "split": "train", "width_px": 144, "height_px": 144, "caption_chars": 7},
        **{"shard": None, "offset": None, "size": None, "sha256": None},
    }
    texts, rows = listed["texts"].table.to_pylist(), listed["texts"].rows
    assert len(texts) == len(rows) == 28
    by_id = {one["id"]: one for one in texts}
    assert (by_id["colour-1"]["image"], by_id["colour-1"]["caption"]) == (
        "图03.png",
        "画里的东西是绿色的,形状不限",
    )
    assert by_id["colour-1"]["sha256"] == images[3]["sha256"]


def test_what_cannot_be_seen_or_says_nothing_is_no_item(tmp_path: Path) -> None:
    tables = make_set(tmp_path, "clean/test", captions={"name-01": ""})
    rows = tables.images.to_pylist()
    rows[2] |= {"shard": None, "offset": None, "size": None, "sha256": None, "fault": "missing"}
    tables = pairs.PairSet(pa.Table.from_pylist(rows, pairs.IMAGES), tables.texts, tables.pairs)
    listed = list_items(tmp_path, "test", tables)
    assert listed["images"].table["id"].to_pylist() == [f"图{n:02d}.png" for n in range(12) if n != 2]
    assert 2 not in listed["images"].rows
    texts = {one["id"]: one for one in listed["texts"].table.to_pylist()}
    assert "name-01" not in texts
    assert texts["name-02"]["image"] is None
    assert texts["name-02"]["width_px"] is None


def describe_by_rows(name: str, tables: pairs.PairSet) -> dict[str, tuple[list[dict[str, Any]], list[int]]]:
    """What list_items returns, item by item, of images that are all alike."""
    image_rows, text_rows, split = tables.images.to_pylist(), tables.texts.to_pylist(), SPLIT_OF.get(name, name)
    image_row = {one["image_id"]: row for row, one in enumerate(image_rows)}
    text_row = {one["text_id"]: row for row, one in enumerate(text_rows)}
    true = [one for one in tables.pairs.to_pylist() if one["label"] != 0]
    first_text, first_image = {}, {}
    for one in true:
        first_text.setdefault(image_row[one["image_id"]], text_row[one["text_id"]])
        first_image.setdefault(text_row[one["text_id"]], image_row[one["image_id"]])

    def describe(own: dict[str, Any], image: dict[str, Any] | None, caption: str | None) -> dict[str, Any]:
        kept = {column: (image or {}).get(column) for column in ("category", "shard", "offset", "size", "sha256")}
        width, height = SIZE if image else (None, None)
        return (
            own
            | kept
            | {
                **{"image": (image or {}).get("image_id"), "source": (image or {}).get("source") or "labelled"},
                **{"split": split, "width_px": width, "height_px": height, "caption": caption},
                **{"caption_chars": len(caption) if caption else None},
            }
        )

    shown = [row for row, one in enumerate(image_rows) if one["shard"] is not None]
    said = [row for row, one in enumerate(text_rows) if one["caption"]]
    images, texts = [], []
    for row in shown:
        caption = text_rows[first_text[row]]["caption"] if row in first_text else None
        images.append(describe({"id": image_rows[row]["image_id"]}, image_rows[row], caption))
    for row in said:
        image = image_rows[first_image[row]] if first_image.get(row) in shown else None
        texts.append(describe({"id": text_rows[row]["text_id"]}, image, text_rows[row]["caption"]))
    return {"images": (images, shown), "texts": (texts, said)}


def draw_tables(root: Path, count: int) -> pairs.PairSet:
    """Return a set in which everything that may be missing is, now and then."""
    draw = random.Random(3)
    with ShardWriter(root, "clean/bank/shards") as writer, io.BytesIO() as file:
        Image.new("RGB", SIZE, "teal").save(file, "JPEG")
        place = writer.add("蓝.jpg", file.getvalue())._asdict()
    images, texts, pairing = [], [], []
    for n in range(count):
        gone = dict.fromkeys(place) | {"fault": "missing"}
        own = {"image_id": f"图{n}", "positive_id": f"图{n}", "category": draw.choice([None, "花", "鸟"])}
        images.append(own | {"source": draw.choice([None, "", "art"])} | draw.choice([place, place, gone]))
        texts.append({"text_id": f"t{n}", "caption": draw.choice([None, "", "窗台上的猫", "😀 é"])})
        ends = {"image_id": f"图{draw.randrange(count)}", "text_id": f"t{draw.randrange(count)}"}
        pairing.append({"pair_id": f"p{n}", **ends, "label": draw.choice([None, 0, 1])})
    columns = zip((images, texts, pairing), (pairs.IMAGES, pairs.TEXTS, pairs.PAIRS), strict=True)
    return pairs.PairSet(*(pa.Table.from_pylist(rows, schema) for rows, schema in columns))


def write_file(table: pa.Table) -> bytes:
    with io.BytesIO() as file:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        return file.getvalue()


def test_columns_say_what_rows_would_to_the_last_byte(tmp_path: Path) -> None:
    tables = draw_tables(tmp_path, 300)
    listed, by_rows = list_items(tmp_path, "bank", tables), describe_by_rows("bank", tables)
    for side, (items, rows) in by_rows.items():
        assert listed[side].rows.tolist() == rows
        assert listed[side].table.to_pylist() == [{name: one[name] for name in ITEM_SCHEMA.names} for one in items]
        assert write_file(listed[side].table) == write_file(pa.Table.from_pylist(items, ITEM_SCHEMA))
        assert 0 < len(items) < 300
        for column in ("caption", "image", "category", "caption_chars", "width_px"):
            is_whole = column in ("image", "width_px") if side == "images" else column.startswith("caption")
            assert (listed[side].table[column].null_count == 0) == is_whole, (side, column)


def test_a_set_without_rows_has_no_items(tmp_path: Path) -> None:
    tables = pairs.PairSet(*(schema.empty_table() for schema in (pairs.IMAGES, pairs.TEXTS, pairs.PAIRS)))
    for one in list_items(tmp_path, "corpus", tables).values():
        assert (one.table.schema, len(one.table), len(one.rows)) == (ITEM_SCHEMA, 0, 0)


def make_items(ids: list[str], images: list[str | None]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"id": own, "image": image} for own, image in zip(ids, images, strict=True)], ITEM_SCHEMA
    )


def test_an_id_that_an_earlier_set_has_gets_the_name_of_the_later(tmp_path: Path) -> None:
    empty = dict.fromkeys(("images", "texts"), ITEM_SCHEMA.empty_table())
    one = {"images": make_items(["猫"], ["猫"]), "texts": make_items(["1"], ["猫"])}
    two = {
        "images": make_items(["猫", "狗"], ["猫", "狗"]),
        "texts": make_items(["1", "2", "3"], ["猫", None, "狗"]),
    }
    three = {"images": make_items(["狗", "马"], ["狗", "马"]), "texts": make_items(["猫"], ["狗"])}
    none, first, second, third = make_ids_unique(
        [("valid", empty), ("test", one), ("bank", two), ("corpus", three)]
    )
    assert none == empty
    assert first == one
    assert second["images"] == make_items(["bank/猫", "狗"], ["bank/猫", "狗"])
    assert second["texts"] == make_items(["bank/1", "2", "3"], ["bank/猫", None, "狗"])
    assert third["images"] == make_items(["corpus/狗", "马"], ["corpus/狗", "马"])
    assert third["texts"] == make_items(["猫"], ["corpus/狗"])
