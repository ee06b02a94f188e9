"""Tables with the faults that users' tables have, each of which is one clear error."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.tables import read, write
from tuwen.core.errors import UserError


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
