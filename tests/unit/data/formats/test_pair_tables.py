from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.data.formats.pair_tables import BY_CAPTION, BY_ID, read_named_pairs


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("header", "is_caption"),
    [
        ("image,text,label", False),
        ("image_id,text_id,label", False),
        ("image_id,caption,label", True),
        ("image,caption,label", True),
    ],
)
def test_a_csv_names_pairs_by_id_or_caption_and_says_which_do_not_fit(
    tmp_path: Path, header: str, is_caption: bool
) -> None:
    path = write(tmp_path / "a.csv", header, "1.jpg,一只猫,1", "2.jpg,一只狗,0", "3.jpg,一条鱼,")
    assert list(read_named_pairs(path, (*BY_ID, *BY_CAPTION))) == [
        (2, "1.jpg", "一只猫", is_caption, True),
        (3, "2.jpg", "一只狗", is_caption, False),
        (4, "3.jpg", "一条鱼", is_caption, True),
    ]


def test_a_set_is_read_too_and_a_column_without_a_value_is_no_name(tmp_path: Path) -> None:
    rows = [
        {"image_id": "图.jpg", "text_id": "句", "label": 0},
        {"image_id": None, "text_id": "句", "label": None},
    ]
    pairs.write_table(tmp_path / "pairs.parquet", pa.Table.from_pylist(rows))
    assert [named[1:] for named in read_named_pairs(tmp_path / "pairs.parquet")] == [
        ("图.jpg", "句", False, False),
        ("", "句", False, True),
    ]


@pytest.mark.parametrize(
    ("columns", "lines", "message"),
    [
        (
            BY_ID,
            ["image_id,caption", "1,猫"],
            r"line 1: header image,text\[,label\] or image_id,text_id\[,label\]",
        ),
        (
            BY_ID,
            ["image,image_id,text,text_id", "1,2,3,4"],
            r"got 'image,image_id,text,text_id'; rename the columns",
        ),
        (BY_ID, [], r"line 1: header .+ expected, got ''"),
        (BY_ID, ["image,text,label", "1,2,1", "1,3,yes"], r"line 3: label 'yes': 1 where the text fits"),
    ],
)
def test_what_cannot_be_read_as_pairs_is_named_with_its_line(
    tmp_path: Path, columns: Sequence[tuple[str, str]], lines: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        list(read_named_pairs(write(tmp_path / "a.csv", *lines), columns))
    with pytest.raises(UserError, match=r"gone\.csv: no such file"):
        list(read_named_pairs(tmp_path / "gone.csv", columns))
