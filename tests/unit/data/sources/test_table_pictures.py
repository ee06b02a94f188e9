"""Pictures of a table: bytes, base64 and paths; names that need care, and pictures that cannot be had."""

import base64
import hashlib
import json

import pytest

from tests.support.broken import encode, landscape
from tests.support.tables import CAT, DOG, of_kind, read, source, write
from tuwen.data.sources.ingest import ingest
from tuwen.data.sources.records import ImageRecord, NoteRecord, PairRecord


@pytest.mark.parametrize("cell", [CAT, {"bytes": CAT, "path": None}, {"bytes": None, "path": "pictures/cat.png"}])
def test_parquet_may_hold_the_bytes(root, cell) -> None:
    write(root / "pairs.parquet", [{"path": cell, "zh": ["一只猫", "橘猫"]}, {"path": cell, "zh": ["猫"]}])
    records = read(root, "pairs.parquet")
    (picture,) = of_kind(records, ImageRecord)
    own = not isinstance(cell, bytes) and cell["path"]
    assert picture.image_id == (own or hashlib.sha256(CAT).hexdigest())
    assert (picture.data, picture.file, picture.row) == (CAT, own or "pairs.parquet", None if own else 1)
    assert [link.row for link in of_kind(records, PairRecord)] == [1, 1, 2]


def test_pictures_that_cannot_be_had_stand_where_their_row_stands(root, tmp_path) -> None:
    (tmp_path / "x.png").write_bytes(CAT)
    (root / "out.png").symlink_to(tmp_path / "x.png")
    names = [
        "../x.png",
        "/etc/hostname",
        "out.png",
        "pictures",
        "pictures/none.png",
        "",
        "",
        "pictures\\..\\..\\x.png",
    ]
    write(root / "pairs.csv", [{"path": name, "zh": "一只猫"} for name in names])
    found = of_kind(read(root, "pairs.csv"), ImageRecord)
    faults = ["outside_source"] * 3 + ["missing"] * 4 + ["outside_source"]
    assert [picture.fault for picture in found] == faults
    assert [(picture.file, picture.row) for picture in found] == [("pairs.csv", row) for row in range(2, 10)]
    assert [picture.image_id for picture in found[5:7]] == ["pairs.csv:7", "pairs.csv:8"]
    assert not any(picture.data for picture in found)


def test_a_path_may_turn_back_inside_root(root) -> None:
    (root / "inside.png").symlink_to("pictures/dog.png")
    write(root / "pairs.csv", [{"path": p, "zh": "狗"} for p in ("pictures/../pictures\\dog.png", "inside.png")])
    assert [picture.data for picture in of_kind(read(root, "pairs.csv"), ImageRecord)] == [DOG, DOG]


def test_names_of_one_file_are_one_picture_and_how_they_were_read_is_noted(root, tmp_path) -> None:
    (root / "pictures/ガ猫.JPG").write_bytes(CAT)
    names = [
        "pictures/ガ猫.JPG",
        "pictures/ガ猫.jpg",
        f"{root}/pictures/ガ猫.JPG",
        "D:\\shop\\pictures\\ガ猫.JPG",
        "pictures/%E3%82%AC%E7%8C%AB.JPG",
        "./pictures/カ\u3099猫.JPG\u3000",
    ]
    write(root / "pairs.csv", [{"path": name, "zh": f"第{n}句"} for n, name in enumerate(names)])
    records = read(root, "pairs.csv")
    assert of_kind(records, ImageRecord) == [ImageRecord("pictures/ガ猫.JPG", CAT, "pictures/ガ猫.JPG")]
    assert [link.pair_id for link in of_kind(records, PairRecord)] == [
        f"pictures/ガ猫.JPG#{n}" for n in range(1, 7)
    ]
    assert [note.what.partition(": ")[2] for note in of_kind(records, NoteRecord)] == [
        "upper and lower case",
        "absolute path",
        "backslashes and Windows drive",
        "percent escapes",
        "blanks around it and Unicode form (NFC, NFD)",
    ]
    write(root / "pairs.csv", [{"path": "pictures/DOG.png", "zh": "狗"}, {"path": "/etc/hostname", "zh": "外面"}])
    ingest(source(root, "pairs.csv"), tmp_path / "data/raw")
    assert json.loads((tmp_path / "data/raw/labelled/notes.json").read_text(encoding="utf-8")) == {
        "names read otherwise: upper and lower case": {"count": 1, "examples": ["pictures/DOG.png"]},
        "pictures outside_source": {"count": 1, "examples": ["/etc/hostname"]},
    }


@pytest.mark.parametrize("file", ["pairs.csv", "pairs.tsv", "pairs.jsonl", "pairs.parquet"])
def test_a_column_may_hold_base64(root, file) -> None:
    jpeg, png = encode(landscape(), "JPEG"), encode(landscape())
    cells = [
        base64.b64encode(jpeg).decode(),
        base64.urlsafe_b64encode(jpeg).decode().rstrip("="),
        f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}",
        base64.b64encode(png).decode(),
        base64.b64encode(png).decode()[:-9] + "!",
        "data:image/png;base64,",
        "pictures/cat.png",
    ]
    write(root / file, [{"path": cell, "zh": f"第{n}句"} for n, cell in enumerate(cells)])
    records = read(root, file)
    found = of_kind(records, ImageRecord)
    assert [(one.data, one.fault) for one in found] == [
        (jpeg, None),
        (png, None),
        (None, "unreadable_record"),
        (None, "unreadable_record"),
        (CAT, None),
    ]
    assert found[0].image_id == hashlib.sha256(jpeg).hexdigest()
    assert [link.image_id for link in of_kind(records, PairRecord)][:3] == [found[0].image_id] * 3


def test_base64_of_several_megabytes_is_read_from_a_csv(root) -> None:
    big = encode(landscape(), icc_profile=bytes(range(256)) * 40_000, compress_level=0) + bytes(9_000_000)
    write(root / "pairs.csv", [{"path": base64.b64encode(big).decode(), "zh": "大图"}])
    assert of_kind(read(root, "pairs.csv"), ImageRecord)[0].data == big


def test_a_file_whose_name_is_base64_is_that_file(root) -> None:
    name = base64.urlsafe_b64encode(encode(landscape(), "GIF")).decode()[:64]
    (root / name).write_bytes(CAT)
    write(root / "pairs.csv", [{"path": name, "zh": "猫"}])
    assert of_kind(read(root, "pairs.csv"), ImageRecord) == [ImageRecord(name, CAT, name)]
