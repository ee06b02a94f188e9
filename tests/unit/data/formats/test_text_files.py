import json
import re
from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.data.formats.text_files import Reading, open_text, parse_json, read_csv_rows, read_json_rows

CAPTION = "雨后的街道，行人撑着伞"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_a_text_is_read_in_the_encoding_that_fits_all_of_it(
    tmp_path: Path, encoding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(CAPTION.encode(encoding))
    with open_text(path) as file:
        assert file.read() == CAPTION
    assert (f"{path}: not utf-8 (byte 0), read as gb18030" in capsys.readouterr().err) == (encoding == "gb18030")


def test_a_missing_text_and_one_of_no_encoding_are_named(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    with pytest.raises(UserError, match=r"texts\.txt: not found"), open_text(path):
        pass
    path.write_bytes(b"ab\xff\xff")
    message = r"neither utf-8 \(byte 2\) nor gb18030 \(byte 2\), counted from 0; save the file as UTF-8"
    with pytest.raises(UserError, match=message), open_text(path):
        pass


def test_many_lines_that_were_decoded_wrongly_are_an_error_few_are_told_and_a_person_overrules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, lines = tmp_path / "texts.txt", [f"第{n}号商品图\n" for n in range(300)]
    lines[7] = "æµ‹è¯•\n"
    path.write_text("".join(lines), encoding="utf-8")
    told = "1 lines (8): 'æµ‹è¯•' (bytes c3 a6 c2 b5 e2 80 b9 c3 a8) is utf-8 that was read as cp1252"
    with open_text(path) as file:
        assert file.readlines() == lines
    assert capsys.readouterr().err == f"{path}: {told}, meant is '测试'\n"
    lines[10:20] = ["锟斤拷锟斤拷\n"] * 10
    path.write_text("".join(lines), encoding="utf-8")
    message = r"texts\.txt:8: 11 lines \(8, 11, 12, 13, 14 …\).* `encoding: utf-8` in"
    with pytest.raises(UserError, match=message), open_text(path):
        pass
    with open_text(path, encoding="utf-8") as file:
        assert file.readlines() == lines
    assert "11 lines (8, 11, 12, 13, 14 …)" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-16-le", "utf-16-be"])
def test_tables_in_other_encodings_are_read_and_counted(tmp_path: Path, encoding: str) -> None:
    readings = list[Reading]()
    rows = [(f"p/{n}.jpg", f"第{n}号商品图，红色连衣裙") for n in range(10)]
    (tmp_path / "a.csv").write_bytes("".join(f"{a},{b}\n" for a, b in [("path", "title"), *rows]).encode(encoding))
    lines = [json.dumps({"path": path, "title": title}, ensure_ascii=False) for path, title in rows]
    (tmp_path / "a.jsonl").write_bytes("\n\n".join(lines).encode(encoding))
    found = list(read_csv_rows(tmp_path / "a.csv", ["path", "title"], readings=readings))
    assert [(cells["path"], cells["title"]) for _, cells in found] == rows
    found = list(read_json_rows(tmp_path / "a.jsonl", ["path", "title"], readings=readings))
    assert [(line, cells["title"]) for line, cells in found] == [(2 * n + 1, rows[n][1]) for n in range(10)]
    read_as = {"utf-16": "utf-16-le"}.get(encoding, encoding)
    assert [(one.encoding, one.lines, one.records) for one in readings] == [(read_as, 11, 10), (read_as, 10, 10)]


def test_nul_bytes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("一只猫\n一\0只\0狗\n", encoding="utf-8")
    with open_text(path) as file:
        assert file.read() == "一只猫\n一\0只\0狗\n"
    assert f"{path}: 2 NUL bytes (00), the first in line 2" in capsys.readouterr().err


def test_records_of_a_csv_name_the_line_on_which_they_start(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('id,caption,more\n1,"一只猫,\n睡着了",x\n\n2,"他说:""走""",y\n', encoding="utf-8")
    assert list(read_csv_rows(path, ["caption", "id"])) == [
        (2, {"id": "1", "caption": "一只猫,\n睡着了", "more": "x"}),
        (5, {"id": "2", "caption": '他说:"走"', "more": "y"}),
    ]
    with pytest.raises(UserError, match=r"pairs\.csv: the header lacks \['image'\]"):
        next(read_csv_rows(path, ["image"]))
    with pytest.raises(UserError, match=r"pairs\.csv: the header lacks \['id'\], found \['id,caption,more'\]"):
        next(read_csv_rows(path, ["id"], "\t"))


def test_objects_of_a_jsonl_may_have_more_keys_and_blank_lines_between_them(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"id": 1, "caption": null, "x": []}\n \n{"caption": "猫", "id": 2}', encoding="utf-8")
    assert list(read_json_rows(path, ["id", "caption"])) == [
        (1, {"id": 1, "caption": None, "x": []}),
        (3, {"caption": "猫", "id": 2}),
    ]
    with pytest.raises(UserError, match=r"pairs\.jsonl:3: the object lacks \['x'\], found the keys"):
        list(read_json_rows(path, ["x"]))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud83d\udc3c"', "🐼"),
        (r'"熊猫\ud83d"', "熊猫\ufffd"),
        (r'["\udc3c\ud83d"]', ["\ufffd\ufffd"]),
        (r'"\\ud83d"', r"\ud83d"),
    ],
)
def test_half_of_a_surrogate_pair_is_replaced(text: str, value: object) -> None:
    assert parse_json(text) == (value, str(value).count("\ufffd"))


@pytest.mark.parametrize("mark", [";", "\t", "|", "，"])
def test_a_csv_parted_by_something_else_is_told_by_what(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f"picture{mark}title\n1.jpg{mark}一只猫\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=rf"pairs\.csv: the header lacks .* it is parted by {re.escape(repr(mark))}"
    ):
        list(read_csv_rows(path, ["picture", "title"]))


def test_columns_without_a_name_at_the_end_are_no_name_twice(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("picture,title,,\n1.jpg,一只猫,,\n", encoding="utf-8")
    assert [cells["title"] for _, cells in read_csv_rows(path, ["picture", "title"])] == ["一只猫"]


def test_a_character_that_was_lost_before_is_told_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("picture,title\n1.jpg,一只猫\n2.jpg,红色\ufffd衣裙\n3.jpg,秋\ufffd\n", encoding="utf-8")
    assert len(list(read_csv_rows(path, ["title"]))) == 3
    assert "2 characters that were lost before (U+FFFD, bytes ef bf bd in UTF-8), the first in line 3" in (
        capsys.readouterr().err
    )


def test_what_is_of_note_is_told_once_however_often_a_file_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("文件,描述\n1.jpg,一只橘猫趴在窗台上晒太阳\n2.jpg,海边的日落与归来的渔船\n".encode("gb18030"))
    rows = [list(read_csv_rows(path, ["描述"])) for _ in range(2)]
    assert rows[0] == rows[1] != []
    assert capsys.readouterr().err.count("read as gb18030") == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 753193\n",
            "Git LFS pointer to a file of",
        ),
        (b"<!DOCTYPE html>\n<html><body>\xe7\x99\xbb\xe5\xbd\x95</body></html>", "a web page"),
        (b"\x1f\x8b\x08\0\0\0\0\0\xff\xfe\x81\x90\xc3", "a gzip archive"),
        (
            b"PK\x03\x04\x14\0\x08\x08\xff\xfe\x81\x90\xc3\xb7\x92",
            "a workbook of Excel; unpack it, or save its sheet",
        ),
    ],
)
@pytest.mark.parametrize("read", [read_csv_rows, read_json_rows])
def test_what_is_no_table_at_all_is_called_what_it_is(tmp_path: Path, read, content: bytes, told: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"pairs\.csv: no (table|text): it is .*{told}"):
        list(read(path, ["title"]))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_that_changes_while_it_is_read_is_named_with_the_line_and_both_counts(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    row = "{}.jpg,一只猫\n" if kind == "csv" else '{{"picture": "{}.jpg", "title": "一只猫"}}\n'
    lines = [*(["picture,title\n"] if kind == "csv" else []), *(row.format(n) for n in range(1000))]
    for change, line, number in (("grows", len(lines) + 1, len(lines) + 1), ("shrinks", 800, 800)):
        path.write_text("".join(lines), encoding="utf-8")
        rows = read_csv_rows(path, ["title"]) if kind == "csv" else read_json_rows(path, ["title"])
        next(rows)
        with open(path, "r+b") as file:
            if change == "grows":
                file.seek(0, 2)
                file.write(row.format(1000).encode())
            else:
                file.truncate(len("".join(lines[:800]).encode()))
        with pytest.raises(
            UserError, match=rf"a\.{kind}:{line}: {number} .* {len(lines)}.* changed while it was read"
        ):
            list(rows)


def test_a_key_that_stands_twice_in_an_object_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1, "a": 1}\n{"a": {"b": "猫", "b": "狗"}}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.jsonl:2: no valid JSON \(the key 'b' stands twice in one object"):
        list(read_json_rows(path, ["a"]))


def test_halves_of_surrogate_pairs_are_told_with_the_first_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, readings = tmp_path / "a.jsonl", list[Reading]()
    path.write_text('{"a": "\\ud83d\\udc3c"}\n{"a": "\\ud83d"}\n{"a": ["\\udc3c", "\\ud83d"]}\n', encoding="utf-8")
    values = [row["a"] for _, row in read_json_rows(path, ["a"], readings=readings)]
    assert values == ["🐼", "\ufffd", ["\ufffd", "\ufffd"]]
    note = "3 halves of surrogate pairs in JSON, an emoji cut in two, read as U+FFFD, the first in line 2"
    assert readings[0].notes == [note]
    assert f"{path}: {note}" in capsys.readouterr().err
