"""Tables of every form, made here, and with the faults that users' tables have."""

import base64
import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.broken import encode, landscape
from tuwen.core.errors import UserError
from tuwen.core.params import TableSource
from tuwen.data import sources
from tuwen.data.formats import pairs, shards
from tuwen.data.sources.ingest import ingest
from tuwen.data.sources.records import ImageRecord, NoteRecord, PairRecord, Record, TextRecord

CAT, DOG = b"\x89PNG a cat", b"\x89PNG a dog"
ROWS = [
    {"path": "pictures/cat.png", "zh": "一只猫, 在沙发上睡觉", "more": '"咪咪"\n睡着了'},
    {"path": "pictures/dog.png", "zh": "草地上的狗", "more": ""},
    {"path": "pictures/cat.png", "zh": "橘猫", "more": "猫"},
]
READ = {  # (image, caption), in any form of ROWS
    ("pictures/cat.png", "一只猫, 在沙发上睡觉"),
    ("pictures/cat.png", '"咪咪"\n睡着了'),
    ("pictures/dog.png", "草地上的狗"),
    ("pictures/cat.png", "橘猫"),
    ("pictures/cat.png", "猫"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    (root / "pictures").mkdir(parents=True)
    (root / "pictures/cat.png").write_bytes(CAT)
    (root / "pictures/dog.png").write_bytes(DOG)
    return root


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `rows` in the form of the suffix."""
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
        case ".jsonl":
            path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        case suffix:
            with open(path, "w", encoding="utf-8", newline="") as file:
                out = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
                out.writeheader()
                out.writerows(rows)


def source(root: Path, file: str, **named: Any) -> TableSource:
    return TableSource(kind="table", root=str(root), file=file, **{"image": "path", "captions": ["zh"]} | named)


def read(root: Path, file: str, **named: Any) -> list[Record]:
    return list(sources.read_source(source(root, file, **named))["labelled"])


def of_kind(records: Sequence[Record], kind: type) -> list:
    return [record for record in records if isinstance(record, kind)]


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


@pytest.mark.parametrize("cell", [CAT, {"bytes": CAT, "path": None}, {"bytes": None, "path": "pictures/cat.png"}])
def test_parquet_may_hold_the_bytes(root, cell) -> None:
    write(root / "pairs.parquet", [{"path": cell, "zh": ["一只猫", "橘猫"]}, {"path": cell, "zh": ["猫"]}])
    records = read(root, "pairs.parquet")
    (picture,) = of_kind(records, ImageRecord)
    own = not isinstance(cell, bytes) and cell["path"]
    assert picture.image_id == (own or hashlib.sha256(CAT).hexdigest())
    assert (picture.data, picture.file, picture.row) == (CAT, own or "pairs.parquet", None if own else 1)
    assert [link.row for link in of_kind(records, PairRecord)] == [1, 1, 2]


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


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.csv", "", r"a\.csv: the file is empty, expected the columns path, zh"),
        ("a.csv", "path,text\n", r"lacks \['zh'\], found \['path', 'text'\]"),
        ("a.csv", "path,zh,zh\n", r"names \['zh'\] twice"),
        ("a.csv", 'path,zh\nx,"猫"狗\ny,猫,狗\n', r"a\.csv:2: the record that starts here is no valid CSV"),
        ("a.tsv", "path\tzh\nx\t一\t二\n", r"a\.tsv:2: found 3 fields, expected 2 \(path, zh\)"),
        ("a.jsonl", '{"path": "x", "zh": "猫"}\n{"path": "x"\n', r"a\.jsonl:2: no valid JSON"),
        ("a.jsonl", '["x"]\n', r"a\.jsonl:1: found '\[\"x\"\]', expected one JSON object on each line"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl:1: no valid JSON"),
        ("a.jsonl", '{"path": "x"}', r"a\.jsonl:1: the object lacks \['zh'\], found the keys \['path'\]"),
        ("a.jsonl", '{"path": 3, "zh": "猫"}', r"a\.jsonl:1: the picture is 3, expected a path, bytes or base64"),
        ("a.jsonl", '{"path": "x", "zh": true}', r"a\.jsonl:1: found True, expected a text"),
        ("a.jsonl", '{"path": "x", "zh": 1e999}', r"a\.jsonl:1: found inf, expected a text"),
        ("a.csv", "path,zh\nx,猫\npath,zh\ny,狗\n", r"a\.csv:3: the header again"),
        ("a.csv", "path,zh\nx,猫\n\ufeffpath,zh\ny,狗\n", r"a\.csv:3: the header again"),
        ("a.jsonl", '{"path": "x", "zh": {"a": 1}}', r"a\.jsonl:1: found \{'a': 1\}, expected a text"),
        ("a.parquet", "PAR1 path,zh PAR1", r"a\.parquet: not readable as Parquet after row 0"),
        ("a.xlsx", "PK", r"a\.xlsx: found '\.xlsx', expected \.csv, \.tsv, \.jsonl or \.parquet"),
    ],
)
def test_a_table_of_another_form_is_one_clear_error(root, file, text, message) -> None:
    (root / file).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read(root, file)


@pytest.mark.parametrize(
    ("file", "start", "message"),
    [
        ("a.csv", 'path,zh\nx,"猫\n', r"a\.csv:2: .*field larger than field limit.*close each quoted field"),
        ("a.jsonl", '{"path": "', r"a\.jsonl:1: no line end within \d+ characters"),
    ],
)
def test_a_record_without_end_does_not_fill_the_memory(root, file, start, message) -> None:
    with open(root / file, "w", encoding="utf-8") as out:
        out.write(start)
        for _ in range(70):
            out.write(f"{'x' * 999}{',' if file == 'a.jsonl' else chr(10)}" * 1000)
    with pytest.raises(UserError, match=message):
        read(root, file)


def test_the_table_lies_under_root(root) -> None:
    for file in ("../pairs.csv", str(root / "pairs.csv")):
        with pytest.raises(UserError, match=r"file must lie under root"):
            read(root, file)
    with pytest.raises(UserError, match=r"none\.csv: not found; `file` in params\.yaml"):
        read(root, "none.csv")


def test_parquet_of_other_columns_or_types_is_one_clear_error(root) -> None:
    write(root / "a.parquet", [{"path": "pictures/cat.png", "text": b"\xff"}])
    with pytest.raises(UserError, match=r"a\.parquet: \['zh'\] not found once, found \['path', 'text'\]"):
        read(root, "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet:1: found b'\\xff', expected a text"):
        read(root, "a.parquet", captions=["text"])
    wrong = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xff"))
    pq.write_table(pa.table({"path": ["pictures/cat.png"], "zh": wrong}), root / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: not readable as Parquet after row 0"):
        read(root, "a.parquet")


def test_ingest_keeps_the_bytes_of_a_table(root, tmp_path) -> None:
    write(root / "pairs.csv", ROWS)
    ingest(source(root, "pairs.csv"), tmp_path / "data/raw")
    rows = pairs.read_pair_set(tmp_path / "data/raw/labelled").images.to_pylist()
    read_back = [shards.read_member(tmp_path / "data", shards.Place.of(row)) for row in rows]
    assert read_back == [CAT, DOG]


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
