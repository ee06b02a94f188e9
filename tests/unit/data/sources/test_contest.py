"""The contest's attachments, made here as they are handed out, and with the faults that occur."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.core.params import ContestSource
from tuwen.data import sources
from tuwen.data.sources.records import ImageRecord, NoteRecord, PairRecord, Record, TextRecord

JPEG = b"\xff\xd8\xff\xe0 stands for the bytes of a picture "
CAPTIONS = ["一只猫, 在沙发上睡觉", '他说:"走吧",\n然后出了门', "《雨后》的街道"]


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding=encoding, newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def pictures(folder: Path, *names: str) -> None:
    (folder / "ImageData").mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / "ImageData" / name).write_bytes(JPEG + name.encode())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three attachments: three labelled pairs; two query texts, three images; two query images, three texts."""
    root = tmp_path / "contest"
    first, second, third = root / "附件1", root / "附件2", root / "附件3"
    pictures(first, "b.jpg", "a.jpg", "c.jpg")
    table(
        first / "ImageWordData.csv",
        ["image_id", "caption"],
        list(zip(["b.jpg", "a.jpg", "c.jpg"], CAPTIONS, strict=True)),
    )
    pictures(second, "g1.jpg", "g3.jpg", "g2.jpg")
    table(second / "word_test.csv", ["text_id", "caption"], [["Word-2", CAPTIONS[1]], ["Word-1", ""]])
    table(second / "image_data.csv", ["image_id"], [["g3.jpg"], ["g1.jpg"], ["g2.jpg"]])
    pictures(third, "q1.jpg", "q2.jpg")
    table(third / "image_test.csv", ["image_id"], [["q2.jpg"], ["q1.jpg"]])
    table(third / "word_data.csv", ["text_id", "caption"], [["t3", "一"], ["t1", "二"], ["t2", "三"]])
    return root


def read(root: Path) -> dict[str, list[Record]]:
    found = sources.read_source(ContestSource(kind="contest", root=str(root)))
    return {name: list(records) for name, records in found.items()}


def of_kind(records: Sequence[Record], kind: type) -> list:
    return [record for record in records if isinstance(record, kind)]


def test_labelled_pairs_keep_the_order_of_their_table(root) -> None:
    records = read(root)["labelled"]
    assert [picture.image_id for picture in of_kind(records, ImageRecord)] == ["b.jpg", "a.jpg", "c.jpg"]
    assert records[0] == ImageRecord("b.jpg", JPEG + b"b.jpg", "附件1/ImageData/b.jpg")
    place = ("附件1/ImageWordData.csv", 3)
    assert TextRecord("a.jpg#1", CAPTIONS[1], *place) in records
    assert PairRecord("a.jpg#1", "a.jpg", "a.jpg#1", *place) in records
    assert of_kind(records, TextRecord)[2][1:] == (CAPTIONS[2], place[0], 5)  # the caption before holds a newline


def test_both_tasks_keep_their_ids_and_their_order(root) -> None:
    sets = read(root)
    assert [record.image_id for record in of_kind(sets["t2i"], ImageRecord)] == ["g3.jpg", "g1.jpg", "g2.jpg"]
    assert of_kind(sets["t2i"], TextRecord) == [
        TextRecord("Word-2", CAPTIONS[1], "附件2/word_test.csv", 2),
        TextRecord("Word-1", "", "附件2/word_test.csv", 4),
    ]
    assert [record.image_id for record in of_kind(sets["i2t"], ImageRecord)] == ["q2.jpg", "q1.jpg"]
    assert [record.text_id for record in of_kind(sets["i2t"], TextRecord)] == ["t3", "t1", "t2"]
    assert of_kind(sets["t2i"] + sets["i2t"], PairRecord) == []


def test_a_picture_with_several_captions_comes_once_and_they_are_numbered(root) -> None:
    rows = [["a.jpg", "一只猫"], ["b.jpg", "一条狗"], ["a.jpg", "猫"], ["a.jpg", "一只猫"]]
    table(root / "附件1/ImageWordData.csv", ["image_id", "caption"], rows)
    (root / "附件1/ImageData/c.jpg").unlink()
    records = read(root)["labelled"]
    assert [picture.image_id for picture in of_kind(records, ImageRecord)] == ["a.jpg", "b.jpg"]
    assert [link.text_id for link in of_kind(records, PairRecord)] == ["a.jpg#1", "b.jpg#1", "a.jpg#2", "a.jpg#3"]


def test_ids_that_come_twice_in_a_task_are_kept_for_validate(root) -> None:
    table(root / "附件2/image_data.csv", ["image_id"], [["g1.jpg"], ["g2.jpg"], ["g1.jpg"], ["g3.jpg"]])
    found = of_kind(read(root)["t2i"], ImageRecord)
    assert [picture.image_id for picture in found] == ["g1.jpg", "g2.jpg", "g1.jpg", "g3.jpg"]


def test_images_that_cannot_be_had_are_named_with_their_row(root, tmp_path) -> None:
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    (root / "附件1/ImageData/link.jpg").symlink_to(tmp_path / "secret.jpg")
    names = ["a.jpg", "gone.jpg", "../../../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg", "", "C:\\x.jpg"]
    names += ["../ImageWordData.csv", "a.jpg\0", "长" * 300 + ".jpg"]
    table(root / "附件1/ImageWordData.csv", ["image_id", "caption"], [[name, "一只猫"] for name in names])
    found = of_kind(read(root)["labelled"], ImageRecord)[: len(names)]
    assert [picture.image_id for picture in found] == names
    outside, missing = "outside_source", "missing"
    faults = [None, missing, outside, outside, outside, missing, outside, outside, missing, missing]
    assert [picture.fault for picture in found] == faults
    assert [(p.file, p.row) for p in found[1:3]] == [("附件1/ImageWordData.csv", row) for row in (3, 4)]
    assert [picture.data is None for picture in found] == [fault is not None for fault in faults]


def test_pictures_that_no_row_names_come_without_a_pair_or_are_counted(root, capsys) -> None:
    (root / "附件1/ImageData/子").mkdir()
    (root / "附件1/ImageData/子/d.jpg").write_bytes(JPEG)
    pictures(root / "附件2", "g8.jpg", "g9.jpg")
    sets = read(root)
    assert sets["labelled"][-1] == ImageRecord("子/d.jpg", JPEG, "附件1/ImageData/子/d.jpg")
    assert len(of_kind(sets["t2i"], ImageRecord)) == 3
    log = capsys.readouterr().err
    assert "image_data.csv: 2 files in ImageData are not named here and left alone" in log
    assert "image_test.csv" not in log


def test_folders_inside_imagedata_are_reached_with_either_slash(root) -> None:
    (root / "附件1/ImageData/子").mkdir()
    (root / "附件1/ImageData/子/d.jpg").write_bytes(JPEG)
    table(
        root / "附件1/ImageWordData.csv",
        ["caption", "image_id"],
        [["一只猫", "子\\d.jpg"], ["一条狗", "子/d.jpg"]],
    )
    records = read(root)["labelled"]
    found = of_kind(records, ImageRecord)
    assert found[0] == ImageRecord("子\\d.jpg", JPEG, "附件1/ImageData/子/d.jpg")
    assert "子/d.jpg" not in [picture.image_id for picture in found]  # one file is one picture
    assert [link.image_id for link in of_kind(records, PairRecord)] == ["子\\d.jpg"] * 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_columns_are_found_by_name_in_any_encoding(root, encoding, capsys) -> None:
    path = root / "附件1/ImageWordData.csv"
    rows = [["1", caption, name] for name, caption in zip(["a.jpg", "b.jpg", "c.jpg"], CAPTIONS, strict=True)]
    table(path, ["number", "caption", "image_id"], rows, encoding)
    records = read(root)["labelled"]
    assert [caption.caption for caption in of_kind(records, TextRecord)] == CAPTIONS
    assert len(of_kind(records, ImageRecord)) == 3
    assert ("read as gb18030" in capsys.readouterr().err) == (encoding == "gb18030")


def test_a_name_that_is_not_utf_8_is_named_with_the_way_out(root) -> None:
    gbk = root / os.fsdecode("附件1".encode("gbk"))
    (root / "附件1").rename(gbk)
    with pytest.raises(UserError, match=r"contest/\\udcb8.*1': the name is not UTF-8; .* `convmv -r -f gbk"):
        read(root)
    gbk.rename(root / "附件1")
    (root / "附件1/ImageData" / os.fsdecode("狗.jpg".encode("gbk"))).write_bytes(JPEG)
    with pytest.raises(UserError, match=r"附件1/ImageData/\\udcb9\\udcb7\.jpg': the name is not UTF-8"):
        read(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            r"ImageWordData\.csv: the file is empty, expected the columns image_id, caption",
        ),
        ("image,caption\n", r"lacks \['image_id'\], found \['image', 'caption'\]"),
        ("image_id,caption,caption\n", r"names \['caption'\] twice"),
        ("image_id,caption\na.jpg,猫\nb.jpg,猫,狗\n", r":3: found 3 fields, expected 2"),
        (
            "image_id,caption\na.jpg\n",
            r":2: found 1 fields, expected 2 \(image_id, caption\)",
        ),
        (
            'image_id,caption\na.jpg,猫\nb.jpg,"猫\nc.jpg,狗,狗\n',
            r":3: the record that starts here",
        ),
    ],
)
def test_a_table_of_another_form_is_one_clear_error(root, text, message) -> None:
    (root / "附件1/ImageWordData.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read(root)


def test_bytes_of_no_known_encoding_are_named_by_their_place(root) -> None:
    good = "image_id,caption\na.jpg,一只猫\n".encode()
    (root / "附件1/ImageWordData.csv").write_bytes(good * 60_000 + b"b.jpg,\xff\xff\n")
    offset = len(good) * 60_000 + len("b.jpg,")
    with pytest.raises(
        UserError, match=rf"neither utf-8 \(byte {offset}\) nor gb18030 \(byte \d+\).*save the file as UTF-8"
    ):
        read(root)


def test_files_are_found_by_name_once_and_tasks_are_whole(root, tmp_path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        read(tmp_path / "nowhere")
    copy = root / "副本/ImageWordData.csv"
    table(copy, ["image_id", "caption"], [])
    with pytest.raises(UserError, match=r"ImageWordData\.csv found twice, in .*副本 and .*附件1; remove one"):
        read(root)
    copy.unlink()
    (root / "附件3/word_data.csv").unlink()
    with pytest.raises(UserError, match=r"word_data\.csv not found, half of the task i2t"):
        read(root)
    (root / "附件3/image_test.csv").unlink()
    assert set(read(root)) == {"labelled", "t2i"}
    (root / "附件1/ImageWordData.csv").unlink()
    with pytest.raises(UserError, match=r"ImageWordData\.csv \(attachment 1\) not found at any depth"):
        read(root)


def test_each_table_of_pictures_has_a_real_folder_of_its_own(root, tmp_path) -> None:
    (root / "附件3/ImageData").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"ImageData: not found, or a link; the pictures of image_test\.csv"):
        read(root)
    (root / "附件3/ImageData").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"ImageData: not found, or a link"):
        read(root)
    for name in ("image_test.csv", "word_data.csv"):
        (root / "附件3" / name).rename(root / "附件2" / name)
    with pytest.raises(UserError, match=r"image_data\.csv and image_test\.csv lie in one folder"):
        read(root)


def test_hidden_files_and_what_is_no_picture_are_noted_and_never_pictures(root, capsys) -> None:
    for folder in ("附件1/ImageData", "附件2/ImageData", "附件1/__MACOSX/附件1/ImageData"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in ("._a.jpg", ".DS_Store", "Thumbs.db", "说明.txt"):
            (root / folder / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (root / "附件1/__MACOSX/ImageWordData.csv").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (root / "附件1/ImageData/d.JFIF").write_bytes(JPEG)
    sets = read(root)
    assert [one.image_id for one in of_kind(sets["labelled"], ImageRecord)] == [
        "b.jpg",
        "a.jpg",
        "c.jpg",
        "d.JFIF",
    ]
    notes = of_kind(sets["labelled"], NoteRecord)
    assert {note.what for note in notes} == {"files in ImageData that are no pictures"}
    assert [note.example for note in notes] == [".DS_Store", "._a.jpg", "Thumbs.db", "说明.txt"]
    assert "not named here" not in capsys.readouterr().err


def test_two_names_of_one_file_are_one_picture_and_a_tasks_ids_stay(root) -> None:
    table(root / "附件1/ImageWordData.csv", ["image_id", "caption"], [["A.jpg", "一只猫"], ["a.jpg ", "猫"]])
    records = read(root)["labelled"]
    assert of_kind(records, ImageRecord)[0] == ImageRecord("A.jpg", JPEG + b"a.jpg", "附件1/ImageData/a.jpg")
    assert [link.text_id for link in of_kind(records, PairRecord)] == ["A.jpg#1", "A.jpg#2"]
    assert of_kind(records, NoteRecord) == [
        NoteRecord("names read otherwise: upper and lower case", "A.jpg"),
        NoteRecord("names read otherwise: blanks around it", "a.jpg "),
    ]
    table(root / "附件2/image_data.csv", ["image_id"], [["G1.jpg"], ["g1.jpg"], ["g2.JPG"]])
    found = of_kind(read(root)["t2i"], ImageRecord)
    assert [one.image_id for one in found] == ["G1.jpg", "g1.jpg", "g2.JPG"]
    assert [one.data for one in found] == [JPEG + b"g1.jpg", JPEG + b"g1.jpg", JPEG + b"g2.jpg"]
