"""Readers on any bytes: a UserError, or records of every row; and what csv.writer wrote is read back as it was."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tuwen.core.errors import UserError
from tuwen.core.params import ContestSource, TableSource
from tuwen.data import sources
from tuwen.data.formats.pairs import FAULTS
from tuwen.data.sources.records import ImageRecord, PairRecord, Record, TextRecord

PICTURE = b"\x89PNG"
TWO_NAMES_OF_B = ["子/b.jpg", "子\\b.jpg"]
fuzz = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

texts = st.text(st.characters(codec="utf-8"), max_size=30)
captions = texts | st.text("猫狗,，\"'\n\r\t\0；《》😀a ", max_size=20)
names = st.sampled_from(["a.jpg", *TWO_NAMES_OF_B, "none.jpg", "../x.jpg", "/etc/hostname", ""]) | texts
header = st.permutations(["image_id", "caption"]) | st.lists(
    st.sampled_from(["image_id", "caption", "split", "", "标题"]), max_size=4
)
csv_like = st.text('image_id,caption\n\r"\t猫a.jpg', max_size=80).map(lambda text: text.encode())
json_like = st.text('{}[]":,\\ud8 imagecaption\n猫1.e', max_size=80).map(lambda text: text.encode())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "ImageData/子").mkdir(parents=True)
    for name in ("ImageData/a.jpg", "ImageData/子/b.jpg", "a.jpg"):
        (tmp_path / name).write_bytes(PICTURE)
    return tmp_path


def contest(root: Path, encoding: str | None) -> list[Record]:
    source = ContestSource(kind="contest", root=str(root), encoding=encoding)
    return list(sources.read_source(source)["labelled"])


def table(root: Path, file: str, encoding: str | None) -> list[Record]:
    named = {"image": "image_id", "captions": ["caption"], "encoding": encoding}
    source = TableSource(kind="table", root=str(root), file=file, **named)
    return list(sources.read_source(source)["labelled"])


def check_complete(records: Sequence[Record]) -> int:
    """Check that each pair has image and caption, each image bytes or a fault; return the number of pairs."""
    images = {record.image_id for record in records if isinstance(record, ImageRecord)}
    text_ids = {record.text_id for record in records if isinstance(record, TextRecord)}
    links = [record for record in records if isinstance(record, PairRecord)]
    assert {link.image_id for link in links} <= images
    assert {link.text_id for link in links} == text_ids
    assert len({link.pair_id for link in links}) == len(links) == len(text_ids)
    for record in records:
        for value in record:
            if isinstance(value, str):
                value.encode()
        if isinstance(record, ImageRecord):
            assert (record.data is None) == (record.fault is not None)
            assert record.fault in (None, *FAULTS)
            assert record.data in (None, PICTURE)
    return len(links)


def read_or_refused(root: Path, file: str, data: bytes, encoding: str | None = None) -> list[Record] | None:
    """Return what the reader of `file` makes of `data`; None where it refuses it by name.

    encoding: for random characters, of which nothing can be told. A table of a few random cells that can be read
    in two ways is passed over.
    """
    (root / "ImageWordData.csv").unlink(missing_ok=True)
    (root / file).write_bytes(data)
    try:
        return contest(root, encoding) if file == "ImageWordData.csv" else table(root, file, encoding)
    except UserError as error:
        assume(" two ways" not in str(error))
        return None if file in str(error) else pytest.fail(f"{file} is not named: {error}")


def written(rows: Sequence[Sequence[str]], delimiter: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("file", ["ImageWordData.csv", "pairs.csv", "pairs.tsv", "pairs.jsonl", "pairs.parquet"])
@fuzz
@given(data=st.binary(max_size=100) | csv_like | json_like)
@example(data=b"\xef\xbb\xbf")
@example(data=b"image_id,caption\n\xd5\xd5\x2e\x6a\xff")
@example(data='{"image_id": "a.jpg", "caption": "\\ud800"}'.encode("utf-16"))
@example(data=b'{"image_id": 1e999, "caption": null}')
@example(data=b"PAR1\x15\x04\x15\x00PAR1")
def test_any_bytes_give_complete_records_or_a_user_error(root, file, data) -> None:
    records = read_or_refused(root, file, data)
    if records is not None:
        check_complete(records)


@pytest.mark.parametrize("file", ["ImageWordData.csv", "pairs.csv"])
@fuzz
@given(header=header, rows=st.lists(st.lists(names | captions, min_size=1, max_size=4), max_size=6))
def test_any_table_gives_all_of_its_rows_or_a_user_error(root, file, header, rows) -> None:
    records = read_or_refused(root, file, written([header, *rows]).encode(), "utf-8")
    named = [name for name in header if name]  # a table may end in columns without a name, which nobody asks for
    fits = all(header.count(name) == 1 for name in ("image_id", "caption")) and len(set(named)) == len(named)
    assert (records is not None) == (fits and all(len(row) == len(header) for row in rows))
    if records is not None:
        assert check_complete(records) == len(rows)


@pytest.mark.parametrize(
    ("file", "encoding"),
    [
        ("ImageWordData.csv", "utf-8"),
        ("ImageWordData.csv", "utf-8-sig"),
        ("ImageWordData.csv", "gb18030"),
        ("pairs.csv", "gb18030"),
        ("pairs.tsv", "utf-8"),
    ],
)
@fuzz
@given(cells=st.lists(st.tuples(names, captions), min_size=1, max_size=5), turned=st.booleans())
@example(
    cells=[("a.jpg", "猫\0,\"狗\"\r\n\n'😀'"), ("a.jpg", ""), ("", "\ufeff"), ("../x.jpg", " \t")], turned=True
)
def test_every_caption_that_was_written_comes_back(root, file, encoding, cells, turned) -> None:
    rows = [("image_id", "caption", "more"), *((name, caption, "x") for name, caption in cells)]
    text = written([row[::-1] for row in rows] if turned else rows, "\t" if file.endswith("tsv") else ",")
    data = text.encode(encoding)
    records = read_or_refused(root, file, data, encoding)
    assert records is not None
    assert [record.caption for record in records if isinstance(record, TextRecord)] == [text for _, text in cells]
    links = [record.image_id for record in records if isinstance(record, PairRecord)]
    in_b = [name for name, _ in cells if name in TWO_NAMES_OF_B and not file.startswith("pairs")]
    assert links == [
        in_b[0]
        if name in in_b
        else name  # one file of ImageData is one picture, under the name that came first
        or (file.startswith("pairs") and link)
        or ""
        for (name, _), link in zip(cells, links, strict=True)
    ]
    check_complete(records)


@fuzz
@given(cells=st.lists(st.tuples(names, captions | st.lists(captions, min_size=1)), max_size=5))
def test_every_caption_in_json_comes_back(root, cells) -> None:
    lines = [json.dumps({"image_id": name, "caption": caption}, ensure_ascii=False) for name, caption in cells]
    records = read_or_refused(root, "pairs.jsonl", "\n".join(lines).encode(), "utf-8")
    assert records is not None
    expected = [text for _, cell in cells for text in (cell if isinstance(cell, list) else [cell])]
    assert [record.caption for record in records if isinstance(record, TextRecord)] == expected
    check_complete(records)
