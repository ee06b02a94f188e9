"""What a folder is: one kind, or a message that names what else it could be."""

import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.own_files import DISHES, encode_photo, write_csv, write_photos
from tuwen.core.errors import UserError
from tuwen.core.params.root import check_source
from tuwen.data.formats.text_files import Reading
from tuwen.data.inspection.find_source import count_rows, find_source

ROWS = [(f"p/{number}.jpg", dish) for number, dish in enumerate(DISHES)]


def test_a_folder_with_one_table(tmp_path: Path) -> None:
    write_photos(tmp_path / "p", len(DISHES))
    write_csv(tmp_path / "list/菜单.csv", ("image", "caption"), ROWS)
    source, why = find_source(tmp_path)
    assert source == {
        "kind": "table",
        "root": tmp_path.as_posix(),
        "file": "list/菜单.csv",
        "image": "image",
        "captions": ["caption"],
    }
    assert "image leads to pictures" in why
    assert check_source(source).kind == "table"
    assert count_rows(source) == len(DISHES)


def test_a_parquet_file_may_be_named_itself(tmp_path: Path) -> None:
    table = pa.table({"jpg": [encode_photo(n) for n in range(len(DISHES))], "caption": DISHES})
    for name in ("a", "b"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match="2 tables"):
        find_source(tmp_path)
    source, _ = find_source(tmp_path / "b.parquet")
    assert (source["file"], source["image"], count_rows(source)) == ("b.parquet", "jpg", len(DISHES))


@pytest.mark.parametrize(
    ("file", "kind", "root"),
    [
        ("附件1/ImageWordData.csv", "contest", "."),
        ("muge/train_imgs.tsv", "chinese_clip", "muge"),
        ("tars/00000.tar", "webdataset", "."),
        ("IQR/train/short_itr_train.json", "zero", "."),
    ],
)
def test_the_forms_of_data_sets_are_known_by_their_files(tmp_path: Path, file: str, kind: str, root: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    (tmp_path / "._hidden.tar").touch()
    source, why = find_source(tmp_path)
    assert source == {"kind": kind, "root": (tmp_path / root).as_posix()}
    assert Path(file).name in why


def test_two_kinds_and_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        find_source(tmp_path / "nothing")
    with pytest.raises(UserError, match="nothing is in it"):
        find_source(tmp_path)
    with tarfile.open(tmp_path / "0.tar", "w"):
        pass
    (tmp_path / "valid_imgs.tsv").touch()
    with pytest.raises(UserError, match=r"could be chinese_clip .*webdataset"):
        find_source(tmp_path)


def test_a_first_line_that_is_a_row_is_not_taken_for_the_names_of_columns(tmp_path: Path) -> None:
    write_photos(tmp_path / "p", len(DISHES))
    write_csv(tmp_path / "a.csv", ROWS[0], ROWS[1:])
    with pytest.raises(UserError, match=r"a\.csv: the first line should name the columns.*'p/0\.jpg'"):
        find_source(tmp_path)


@pytest.mark.parametrize(("mark", "way"), [("\t", "rename it to .tsv"), (";", "save it with commas")])
def test_another_delimiter_than_the_ending_says_is_named(tmp_path: Path, mark: str, way: str) -> None:
    lines = [mark.join(row) for row in (("file", "text"), *ROWS)]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match=way):
        find_source(tmp_path)


def test_a_table_without_rows_or_header_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,text\n", encoding="utf-8")
    with pytest.raises(UserError, match="no rows below the header"):
        find_source(tmp_path)
    (tmp_path / "a.csv").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="is empty, expected the names of the columns in its first line"):
        find_source(tmp_path)


def test_an_encoding_that_two_could_be_is_said_by_the_person(tmp_path: Path) -> None:
    write_photos(tmp_path / "p", 2)
    (tmp_path / "a.csv").write_bytes("file,text\np/0.jpg,猫\np/1.jpg,猫\n".encode("gbk"))
    with pytest.raises(UserError, match=r"`tuwen init`: --encoding.*gb18030 .*utf-8"):
        find_source(tmp_path)
    source, _ = find_source(tmp_path, "gb18030")
    readings = list[Reading]()
    assert source["encoding"] == "gb18030"
    assert (count_rows(source, readings), readings[0].encoding) == (2, "gb18030")
    assert find_source(tmp_path / "a.csv", "gb18030")[0] == source


def test_a_broken_parquet_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(UserError, match=r"pairs\.parquet: not readable as Parquet: .*; write the file anew"):
        find_source(tmp_path)


def test_files_of_the_system_are_passed_by_and_endings_may_be_in_capitals(tmp_path: Path) -> None:
    for name in ("__MACOSX/a.csv", "._b.csv", "Thumbs.db", "00000.TAR"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_source(tmp_path)[0]["kind"] == "webdataset"
