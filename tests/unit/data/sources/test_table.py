"""Tables of every form, made here: their columns, captions and ids."""

import json

import pytest

from tests.support.tables import CAT, DOG, ROWS, of_kind, read, source, write
from tuwen.core.errors import UserError
from tuwen.data.formats import pairs, shards
from tuwen.data.sources.ingest import ingest
from tuwen.data.sources.records import ImageRecord, PairRecord, TextRecord

READ = {  # (image, caption), in any form of ROWS
    ("pictures/cat.png", "一只猫, 在沙发上睡觉"),
    ("pictures/cat.png", '"咪咪"\n睡着了'),
    ("pictures/dog.png", "草地上的狗"),
    ("pictures/cat.png", "橘猫"),
    ("pictures/cat.png", "猫"),
}


@pytest.mark.parametrize("file", ["pairs.csv", "pairs.tsv", "pairs.jsonl", "pairs.parquet"])
def test_every_form_gives_the_same_pairs(root, file) -> None:
    write(root / file, ROWS)
    records = read(root, file, captions=["zh", "more"])
    captions = {caption.text_id: caption.caption for caption in of_kind(records, TextRecord)}
    links = of_kind(records, PairRecord)
    assert {(link.image_id, captions[link.text_id]) for link in links} == READ
    assert len(links) == len(captions) == len(READ)
    assert of_kind(records, ImageRecord) == [
        ImageRecord("pictures/cat.png", CAT, "pictures/cat.png"),
        ImageRecord("pictures/dog.png", DOG, "pictures/dog.png"),
    ]
    first = {"pairs.csv": 2, "pairs.tsv": 2}.get(file, 1)
    assert (links[0].file, links[0].row) == (file, first)


def test_a_cell_may_hold_a_list_and_one_empty_caption_stays(root) -> None:
    rows = [
        {"path": "pictures/cat.png", "zh": ["一只猫", "橘猫"]},
        {"path": "pictures/dog.png", "zh": []},
        {"path": "pictures/dog.png", "zh": float("nan")},
        {"path": "pictures/dog.png", "zh": "狗"},
    ]
    write(root / "pairs.jsonl", rows)
    found = [(caption.text_id, caption.caption) for caption in of_kind(read(root, "pairs.jsonl"), TextRecord)]
    cat, dog = "pictures/cat.png", "pictures/dog.png"
    assert found == [
        (f"{cat}#1", "一只猫"),
        (f"{cat}#2", "橘猫"),
        *[(f"{dog}#{n}", caption) for n, caption in ((1, ""), (2, ""), (3, "狗"))],
    ]


def test_columns_name_id_group_category_and_split(root) -> None:
    known = {"id": "7", "album": "一", "kind": "动物", "part": "val"}
    write(root / "pairs.csv", [{**ROWS[1], **known}, {**ROWS[0], "id": "8", "album": "", "kind": "", "part": ""}])
    named = {"image_id": "id", "group": "album", "category": "kind", "split": "part"}
    records = read(root, "pairs.csv", **named)
    assert of_kind(records, ImageRecord) == [
        ImageRecord("7", DOG, "pictures/dog.png", group="一", category="动物", split="valid"),
        ImageRecord("8", CAT, "pictures/cat.png"),
    ]
    write(root / "pairs.csv", [{**ROWS[1], **known, "part": "验证"}])
    with pytest.raises(UserError, match=r"pairs\.csv:2: the split is '验证', expected train, valid"):
        read(root, "pairs.csv", **named)


def test_an_id_of_two_pictures_or_two_splits_is_kept_twice_for_validate(root) -> None:
    rows = [
        {"path": f"pictures/{name}.png", "zh": "猫", "id": "1", "part": "train"} for name in ("cat", "dog", "dog")
    ]
    write(root / "pairs.csv", [*rows, {**rows[2], "part": "test"}])
    found = of_kind(read(root, "pairs.csv", image_id="id", split="part"), ImageRecord)
    assert [(picture.image_id, picture.data, picture.split) for picture in found] == [
        ("1", CAT, "train"),
        ("1", DOG, "train"),
        ("1", DOG, "test"),
    ]


def test_captions_with_quotes_that_are_text_give_a_row_for_each_line(root, capsys) -> None:
    captions = [f"第{n}号商品图" for n in range(60)]
    captions[10], captions[14], captions[20] = '"双面羊绒大衣', '液晶显示器 27"', '"双面"羊绒'
    for file, delimiter in (("pairs.tsv", "\t"), ("pairs.csv", ",")):
        lines = [f"pictures/cat.png{delimiter}{caption}\n" for caption in captions]
        (root / file).write_text(f"path{delimiter}zh\n{''.join(lines)}", encoding="utf-8")
        assert [text.caption for text in of_kind(read(root, file), TextRecord)] == captions
        assert f"{file}: quotes are text (line 22: as quoting" in capsys.readouterr().err


def test_the_source_overrules_what_the_bytes_seem_to_be(root, tmp_path) -> None:
    (root / "pairs.csv").write_text("path,zh\npictures/cat.png,猫\n", encoding="gb18030")
    with pytest.raises(UserError, match=r"pairs\.csv: .*name its encoding where the source has `encoding:`"):
        read(root, "pairs.csv")
    ingest(source(root, "pairs.csv", encoding="gb18030"), tmp_path / "data/raw")
    raw = tmp_path / "data/raw/labelled"
    assert pairs.read_pair_set(raw).texts["caption"].to_pylist() == ["猫"]
    assert json.loads((raw / "files.json").read_text(encoding="utf-8")) == [
        {
            "file": "pairs.csv",
            "encoding": "gb18030",
            "delimiter": ",",
            "quotes": "none",
            "lines": 2,
            "records": 1,
            "notes": ["read as gb18030: `encoding` says so"],
        }
    ]
    assert not (tmp_path / "data/raw/t2i/files.json").exists()


def test_a_caption_of_10_mb_and_nul_bytes_come_through(root, tmp_path) -> None:
    captions = ["猫\0狗", "图文" * 1_700_000, "\x00"]
    write(root / "pairs.csv", [{"path": "pictures/cat.png", "zh": caption} for caption in captions])
    ingest(source(root, "pairs.csv"), tmp_path / "data/raw")
    assert pairs.read_pair_set(tmp_path / "data/raw/labelled").texts["caption"].to_pylist() == captions


def test_half_of_a_surrogate_pair_in_json_is_replaced(root) -> None:
    line = r'{"path": "pictures/cat.png", "zh": ["猫\ud83d", "\ude00狗", "\ud83d\ude00", "\\ud83d"]}'
    (root / "pairs.jsonl").write_text(f"\n{line}\r\n", encoding="utf-8-sig")
    captions = of_kind(read(root, "pairs.jsonl"), TextRecord)
    assert [caption.caption for caption in captions] == ["猫�", "�狗", "😀", r"\ud83d"]
    assert captions[0].row == 2


def test_ingest_keeps_the_bytes_of_a_table(root, tmp_path) -> None:
    write(root / "pairs.csv", ROWS)
    ingest(source(root, "pairs.csv"), tmp_path / "data/raw")
    rows = pairs.read_pair_set(tmp_path / "data/raw/labelled").images.to_pylist()
    read_back = [shards.read_member(tmp_path / "data", shards.Place.of(row)) for row in rows]
    assert read_back == [CAT, DOG]
