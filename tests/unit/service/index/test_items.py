"""What may be found: measures of the upright picture, captions, names that are unique."""

import io
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import ExifTags, Image

from tests.support.retrieval import make_set
from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.data.formats.shards import ShardWriter
from tuwen.service.index.items import list_items, make_ids_unique


def test_an_item_says_what_people_filter_by(tmp_path: Path) -> None:
    tables = make_set(tmp_path, "clean/bank")
    listed = list_items(tmp_path, "bank", tables)
    images, rows = listed["images"]
    assert rows.tolist() == list(range(12))
    first = images[0] | {"shard": None, "offset": None, "size": None, "sha256": None}
    assert first == {
        **{"id": "图00.png", "image": "图00.png", "caption": "一个红色的圆形", "source": "labelled"},
        **{"category": None, "split": "train", "width_px": 144, "height_px": 144, "caption_chars": 7},
        **{"shard": None, "offset": None, "size": None, "sha256": None},
    }
    texts, rows = listed["texts"]
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
    assert [one["id"] for one in listed["images"][0]] == [f"图{n:02d}.png" for n in range(12) if n != 2]
    assert 2 not in listed["images"][1]
    texts = {one["id"]: one for one in listed["texts"][0]}
    assert "name-01" not in texts
    assert texts["name-02"]["image"] is None
    assert texts["name-02"]["width_px"] is None


def test_a_picture_is_measured_as_it_stands_upright(tmp_path: Path) -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (40, 30), "teal").save(file, "JPEG", exif=exif)
    with ShardWriter(tmp_path, "clean/test/shards") as writer:
        member = writer.add("夕阳.jpg", file.getvalue())
        broken = writer.add("坏.jpg", b"\xff\xd8\xff")
    row = {"image_id": "夕阳.jpg", "positive_id": "夕阳.jpg"} | member._asdict()

    def measure(row: dict[str, object]) -> dict[str, object]:
        images = pa.Table.from_pylist([row], pairs.IMAGES)
        empty = pairs.PairSet(images, pairs.TEXTS.empty_table(), pairs.PAIRS.empty_table())
        return list_items(tmp_path, "test", empty)["images"][0][0]

    assert (measure(row)["width_px"], measure(row)["height_px"]) == (30, 40)
    with pytest.raises(UserError, match=r"picture 坏\.jpg cannot be opened"):
        measure({"image_id": "坏.jpg"} | broken._asdict())


def test_an_id_that_two_sets_have_gets_the_name_of_the_second(tmp_path: Path) -> None:
    one, two = ({"images": [{"id": "猫", "image": "猫"}], "texts": [{"id": "1", "image": "猫"}]} for _ in "12")
    two["images"].append({"id": "狗", "image": "狗"})
    make_ids_unique([("test", one), ("bank", two)])
    assert one == {"images": [{"id": "猫", "image": "猫"}], "texts": [{"id": "1", "image": "猫"}]}
    assert two["images"] == [{"id": "bank/猫", "image": "bank/猫"}, {"id": "狗", "image": "狗"}]
    assert two["texts"] == [{"id": "bank/1", "image": "bank/猫"}]
