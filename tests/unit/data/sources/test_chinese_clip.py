"""Base64 lines and texts with the ids of their pictures."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuwen.core.errors import UserError
from tuwen.core.params import ChineseClipSource
from tuwen.data import sources
from tuwen.data.sources import chinese_clip
from tuwen.data.sources.records import ImageRecord, PairRecord, TextRecord

BAG = {"text_id": 8428, "text": "高级感托特包斜挎", "image_ids": [1076345, 517602]}
SKIRT = {"text_id": "8429", "text": "法式碎花连衣裙，夏季", "image_ids": ["517602"]}
JPEG = base64.b64decode(b"/9j/++/+")


def write(root: Path, split: str, pictures: dict[Any, bytes], texts: list[Any]) -> None:
    lines = [f"{image_id}\t{base64.b64encode(data).decode()}\n" for image_id, data in pictures.items()]
    (root / f"{split}_imgs.tsv").write_text("".join(lines))
    rows = [text if isinstance(text, str) else json.dumps(text, ensure_ascii=False) for text in texts]
    (root / f"{split}_texts.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def read(root: Path) -> dict[str, list[ImageRecord | TextRecord | PairRecord]]:
    source = ChineseClipSource(kind="chinese_clip", root=str(root))
    return {name: list(records) for name, records in sources.read_source(source).items()}


def splits(root: Path) -> dict[str, str | None]:
    return {p.image_id: p.split for p in read(root)["labelled"] if isinstance(p, ImageRecord)}


def test_pairs_of_every_split_come_with_their_place(tmp_path: Path) -> None:
    write(tmp_path, "train", {1076345: JPEG, 517602: b"dress"}, [BAG, SKIRT])
    assert read(tmp_path) == {
        "labelled": [
            ImageRecord("train/1076345", JPEG, "train_imgs.tsv", 1),
            ImageRecord("train/517602", b"dress", "train_imgs.tsv", 2),
            TextRecord("train/8428", "高级感托特包斜挎", "train_texts.jsonl", 1),
            PairRecord("train/8428:1076345", "train/1076345", "train/8428", "train_texts.jsonl", 1),
            PairRecord("train/8428:517602", "train/517602", "train/8428", "train_texts.jsonl", 1),
            TextRecord("train/8429", "法式碎花连衣裙，夏季", "train_texts.jsonl", 2),
            PairRecord("train/8429:517602", "train/517602", "train/8429", "train_texts.jsonl", 2),
        ]
    }


def test_flickr30k_cn_has_three_splits_and_no_task(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):  # each counts anew
        write(tmp_path, split, {1: split.encode()}, [{"text_id": 0, "text": "跑步的人", "image_ids": [1]}])
    assert read(tmp_path).keys() == {"labelled"}
    assert splits(tmp_path) == {"train/1": "train", "valid/1": "valid", "test/1": "test"}


def test_muge_has_a_task_and_is_measured_on_valid(tmp_path: Path) -> None:
    write(tmp_path, "train", {1: b"1"}, [{"text_id": 1, "text": "纯棉碎花吊带裙", "image_ids": [1]}])
    write(tmp_path, "valid", {2: b"2"}, [{"text_id": 2, "text": "北欧轻奢边几", "image_ids": [2]}])
    write(tmp_path, "test", {3: b"3"}, [{"text_id": 3, "text": "高颜值拖鞋女", "image_ids": []}])
    assert splits(tmp_path) == {"train/1": "train", "valid/2": "test"}
    assert read(tmp_path)["t2i"] == [
        ImageRecord("3", b"3", "test_imgs.tsv", 1),
        TextRecord("3", "高颜值拖鞋女", "test_texts.jsonl", 1),
    ]


def test_one_split_alone_is_split_by_the_pipeline(tmp_path: Path) -> None:
    write(tmp_path, "train", {1: b"1"}, [{"text_id": 1, "text": "水杯", "image_ids": [1]}])
    write(tmp_path, "test3", {3: b"3"}, [{"text_id": 3, "text": "台灯", "image_ids": []}])
    assert splits(tmp_path) == {"train/1": None}
    assert [record.file for record in read(tmp_path)["t2i"]] == ["test3_imgs.tsv", "test3_texts.jsonl"]


@pytest.mark.parametrize("encoded", [b"/9j/++/+", b"_9j_--_-"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_both_alphabets_of_base64_and_all_line_ends(tmp_path: Path, encoded: bytes, end: bytes) -> None:
    write(tmp_path, "train", {}, [BAG])
    (tmp_path / "train_imgs.tsv").write_bytes(b"\xef\xbb\xbf1076345\t" + encoded + end)
    assert read(tmp_path)["labelled"][0] == ImageRecord("train/1076345", JPEG, "train_imgs.tsv", 1)


def test_addresses_with_base64_are_read_and_a_macs_second_files_passed_by(tmp_path: Path) -> None:
    write(tmp_path, "train", {}, [BAG | {"image_ids": ["图.jpg", "ガ.jpg"]}])
    lines = [
        "图.jpg\tdata:image/jpeg;base64,/9j/++/+",
        "カ\u3099.jpg\tDATA:image/jpeg;charset=utf-8;base64,_9j_--_-",
    ]
    (tmp_path / "train_imgs.tsv").write_text("\n".join(lines), encoding="utf-8")
    for name in ("._train_imgs.tsv", "._train_texts.jsonl"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    records = read(tmp_path)["labelled"]
    ids = ["train/图.jpg", "train/ガ.jpg"]  # the second in NFD in the one file and in NFC in the other
    assert [(one.image_id, one.data) for one in records if isinstance(one, ImageRecord)] == [
        (i, JPEG) for i in ids
    ]
    assert [one.image_id for one in records if isinstance(one, PairRecord)] == ids


@pytest.mark.parametrize(
    "encoded", [b"", b"!!!!", b"/9j/4AA!", b"b'/9j/4AAQ", b"/9j/\x004AAQ", b"/9j/ 4AAQ", b"A"]
)
def test_broken_base64_is_named_and_what_follows_is_read(tmp_path: Path, encoded: bytes) -> None:
    write(tmp_path, "train", {}, [BAG])
    (tmp_path / "train_imgs.tsv").write_bytes(b"1\t" + encoded + b"\n\n517602\t/9j/\n")
    assert read(tmp_path)["labelled"][:2] == [
        ImageRecord("train/1", None, "train_imgs.tsv", 1, "unreadable_record"),
        ImageRecord("train/517602", b"\xff\xd8\xff", "train_imgs.tsv", 3),
    ]


def test_texts_may_name_pictures_that_no_line_has(tmp_path: Path) -> None:
    write(tmp_path, "train", {}, [BAG | {"image_ids": [5, 5, "5"]}, BAG | {"image_ids": [], "text": None}])
    assert read(tmp_path)["labelled"] == [
        TextRecord("train/8428", "高级感托特包斜挎", "train_texts.jsonl", 1),
        PairRecord("train/8428:5", "train/5", "train/8428", "train_texts.jsonl", 1),
        TextRecord("train/8428", "", "train_texts.jsonl", 2),
    ]


def test_odd_contents_come_through_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, "train", {1: b"PK\x03\x04 a zip"}, [BAG | {"text": "斜\0挎" + "包" * 10_000_000}, BAG])
    with open(tmp_path / "train_imgs.tsv", "a") as file:
        file.write("1\tUEs=\n")  # the same id again, for validate to judge
    found = read(tmp_path)["labelled"]
    assert [(p.image_id, p.data) for p in found[:2]] == [("train/1", b"PK\x03\x04 a zip"), ("train/1", b"PK")]
    assert [c.caption for c in found if isinstance(c, TextRecord)] == ["斜\0挎" + "包" * 10_000_000, BAG["text"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"train_texts\.jsonl:2: no valid JSON"),
        ("[]", r"train_texts\.jsonl:2: found '\[\]', expected one JSON object"),
        ({"text_id": 1, "text": "包"}, r"train_texts\.jsonl:2: the object lacks \['image_ids'\]"),
        (BAG | {"text": 5}, r"train_texts\.jsonl:2: text is 5, expected a text"),
        (BAG | {"image_ids": 5}, r"train_texts\.jsonl:2: image_ids is 5, expected a list"),
        (BAG | {"image_ids": [1.5]}, r"train_texts\.jsonl:2: the id is 1\.5, expected a number or a text"),
        (BAG | {"text_id": None}, r"train_texts\.jsonl:2: the id is None, expected a number or a text"),
    ],
)
def test_a_text_of_another_form_is_named(tmp_path: Path, text: Any, message: str) -> None:
    write(tmp_path, "train", {1: b"1"}, [BAG, text])
    with pytest.raises(UserError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    "line", [b"1076345", b"\t/9j/", b"1\t2\t/9j/", b"1 /9j/", b"\xff\xff\xff\t/9j/", b"x" * 99]
)
def test_a_picture_line_of_another_form_is_named(
    tmp_path: Path, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chinese_clip, "MAX_LINE_BYTES", 99)
    write(tmp_path, "train", {1: b"1"}, [BAG])
    with open(tmp_path / "train_imgs.tsv", "ab") as file:
        file.write(line + b"\n")
    with pytest.raises(UserError, match=r"train_imgs\.tsv:2: "):
        read(tmp_path)


def test_files_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: no file named like train_imgs.tsv"):
        read(tmp_path)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read(tmp_path / "nowhere")
    write(tmp_path, "test", {1: b"1"}, [{"text_id": 3, "text": "台灯", "image_ids": []}])
    with pytest.raises(UserError, match="no text names a picture in image_ids"):
        read(tmp_path)
    write(tmp_path, "fold1", {1: b"1"}, [BAG])
    with pytest.raises(UserError, match="unknown split 'fold1', expected train, valid, val, dev, test"):
        read(tmp_path)
    (tmp_path / "fold1_imgs.tsv").rename(tmp_path / "train_imgs.tsv")
    with pytest.raises(UserError, match=r"fold1_imgs\.tsv not found, half of the split fold1"):
        read(tmp_path)
    (tmp_path / "fold1_texts.jsonl").rename(tmp_path / "train_texts.jsonl")
    write(tmp_path, "valid", {1: b"1"}, [BAG])
    write(tmp_path, "dev", {1: b"1"}, [BAG])
    with pytest.raises(UserError, match=r"\['dev', 'train', 'valid'\] name one split twice"):
        read(tmp_path)
    write(tmp_path, "dev", {1: b"1"}, [BAG | {"image_ids": []}])
    with pytest.raises(UserError, match=r"the texts of \['dev', 'test'\] name no pictures; there can be one task"):
        read(tmp_path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_end_in_records_or_one_error(tmp_path: Path, pictures: bytes, texts: bytes) -> None:
    write(tmp_path, "train", {1: b"1"}, [BAG])
    with open(tmp_path / "train_imgs.tsv", "ab") as file:
        file.write(pictures)
    with open(tmp_path / "train_texts.jsonl", "ab") as file:
        file.write(texts)
    try:
        found = read(tmp_path)["labelled"]
    except UserError:
        return
    assert all((p.data is None) == (p.fault is not None) for p in found if isinstance(p, ImageRecord))
