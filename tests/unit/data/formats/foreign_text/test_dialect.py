"""Quotes that are quoting, quotes that are text, and files of which nobody can tell."""

import csv
import io
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.data.formats.foreign_text.quote_scan import list_starts
from tuwen.data.formats.text_files import Reading, read_csv_rows

COLUMNS = ["picture", "title"]
WORDS = ["红色连衣裙", "液晶显示器 27", "双面羊绒大衣", "一只猫", "他说", "A4 纸", "夏季新款"]


def name_pictures(count: int) -> list[list[str]]:
    return [[f"p/{n}.jpg", f"第{n}号商品图"] for n in range(count)]


def read(path: Path, delimiter: str = ",", columns: Sequence[str] = COLUMNS) -> list[list[str]]:
    return [[cells[name] for name in columns] for _, cells in read_csv_rows(path, columns, delimiter)]


def write_as_text(path: Path, rows: Sequence[Sequence[str]], delimiter: str) -> None:
    path.write_text("".join(f"{delimiter.join(row)}\n" for row in rows), encoding="utf-8")


def write_quoted(
    path: Path, rows: Sequence[Sequence[str]], delimiter: str, quoting: int = csv.QUOTE_MINIMAL
) -> None:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    path.write_text(out.getvalue(), encoding="utf-8", newline="")


@pytest.mark.parametrize("delimiter", [",", "\t"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "quoted",
    [
        {10: '"双面羊绒大衣', 14: '液晶显示器 27"'},
        {10: '"双面羊绒大衣', 11: '液晶显示器 27"'},
        {10: '"双面羊绒大衣', 58: '液晶显示器 27"'},
        {0: '"双面羊绒大衣'},
        {59: '"双面羊绒大衣'},
        {7: '"双面"羊绒大衣', 9: '27" 显示器'},
        {7: '"双面羊绒大衣"', 9: '27" 显示器'},
        {3: '"一"', 5: '"', 6: '""', 20: '"""', 30: '"a', 31: 'b"', 40: '"c', 45: 'd"'},
    ],
)
def test_a_quote_that_is_text_takes_no_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], delimiter: str, turned: bool, quoted: dict[int, str]
) -> None:
    rows = name_pictures(60)
    for n, title in quoted.items():
        rows[n][1] = title
    path, order = tmp_path / "a.csv", -1 if turned else 1
    write_as_text(path, [row[::order] for row in [COLUMNS, *rows]], delimiter)
    assert read(path, delimiter) == rows
    assert "quotes are text (line " in capsys.readouterr().err


@pytest.mark.parametrize("delimiter", [",", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("turned", [False, True])
def test_quoting_keeps_working(tmp_path: Path, delimiter: str, quoting: int, turned: bool) -> None:
    rows = name_pictures(20)
    titles = ["一只猫,\n睡着了", '他说:"走"', '"', "a\tb\n\nc\r\nd", "红,蓝\n白,黑", '"双面"', "\n", ",", '27"']
    for n, title in enumerate(titles, 3):
        rows[n][1] = title
    path, order = tmp_path / "a.csv", -1 if turned else 1
    write_quoted(path, [row[::order] for row in [COLUMNS, *rows]], delimiter, quoting)
    assert read(path, delimiter) == rows


def test_rows_that_lie_in_a_quoted_cell_are_an_error_with_their_lines_where_other_cells_are_quoted(
    tmp_path: Path,
) -> None:
    rows = name_pictures(60)
    rows[3][1], rows[10][1], rows[14][1] = '"一只猫,\n睡着了"', '"双面羊绒大衣', '液晶显示器 27"'
    write_as_text(tmp_path / "a.csv", [COLUMNS, *rows], ",")
    with pytest.raises(UserError, match=r"a\.csv:13: can be read in two ways: the quotes that open in lines 13 "):
        read(tmp_path / "a.csv")
    rows[3][1], rows[12][1] = "一只猫", "多,了"  # a line among those taken is no row
    write_as_text(tmp_path / "a.csv", [COLUMNS, *rows], ",")
    with pytest.raises(UserError, match=r"a\.csv:12: can be read in two ways: the quotes that open in lines 12 "):
        read(tmp_path / "a.csv")


NAMES = "松竹梅兰菊荷桃李杏柳"


def write_named(path: Path, names: Sequence[str], cells: dict[int, str]) -> list[list[str]]:
    """Write a row for each name, its title a word or, where `cells` has one, just that; return the rows."""
    rows = [[name, cells.get(n, f"{WORDS[n % 7]}{n}")] for n, name in enumerate(names)]
    write_as_text(path, [COLUMNS, *rows], ",")
    return rows


@pytest.mark.parametrize("inside", ["007.jpg,蓝色", "007.jpg,蓝色\n008.jpg,绿色"])
def test_a_quoted_cell_whose_lines_look_like_rows_that_the_file_has_anyway_is_one_cell(
    tmp_path: Path, inside: str
) -> None:
    names = [f"{n:03d}.jpg" for n in range(30)]
    rows = write_named(tmp_path / "a.csv", names, {6: f'"红色\n{inside}"'})
    rows[6][1] = f"红色\n{inside}"
    assert read(tmp_path / "a.csv") == rows


@pytest.mark.parametrize(
    ("names", "cells", "lines", "ends"),
    [
        (list(NAMES), {4: '"红色\n菊花.jpg,蓝色"'}, "6", "7"),  # names without numbers
        ([f"{n * 7919 % 1000:03d}" for n in range(20)], {6: '"红色\n007.jpg,蓝色"'}, "8", "9"),
        ([f"{n:03d}" for n in range(20)], {6: '"红色\n150.jpg,蓝色"'}, None, None),  # 6, 150, 7: goes on past it
        ([f"{n:03d}" for n in range(20)], {6: '"红色\n150.jpg,蓝色"', 12: '"a', 13: 'b"'}, "8, 15", "9, 16"),
        (list(NAMES), {3: '"红\n松.jpg,蓝"', 6: '"红\n竹.jpg,蓝"'}, "5, 9", "6, 10"),
    ],
)
def test_one_line_in_quotes_that_may_be_a_row_is_an_error_with_its_lines_where_no_number_tells(
    tmp_path: Path, names: list[str], cells: dict[int, str], lines: str | None, ends: str | None
) -> None:
    rows = write_named(tmp_path / "a.csv", [f"{name}.jpg" for name in names], cells)
    if lines is None:
        rows[6][1] = rows[6][1].strip('"')
        assert read(tmp_path / "a.csv") == rows
        return
    told = f"the quotes that open in lines {lines} take what follows, up to lines {ends}, into"
    with pytest.raises(UserError, match=rf"a\.csv:{lines.split(',')[0]}: can be read in two ways: {told}"):
        read(tmp_path / "a.csv")


def test_quotes_around_several_lines_that_are_all_rows_are_text_whatever_their_names(tmp_path: Path) -> None:
    rows = write_named(tmp_path / "a.csv", [f"{name}.jpg" for name in NAMES], {2: '"双面羊绒', 5: '显示器 27"'})
    assert read(tmp_path / "a.csv") == rows


def test_the_count_of_records_names_the_lines_where_they_begin(tmp_path: Path) -> None:
    lines = ["a,b\n", "\n", '1,"x\n', ' ""y"\n', "2,z\n", '"3",w\n']
    assert [*list_starts(lines, ",", 1 << 20, True)] == [1, 3, 5, 6]
    assert [*list_starts(lines, ",", 1 << 20, False)] == [1, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('picture,title\n1.jpg,"双面\n2.jpg,27"\n', r"a\.csv:2: can be read in two ways"),
        ('title\n一只猫\n"双面\n27"\n狗\n', r"a\.csv:3: can be read in two ways"),
        (
            'picture,title\n1.jpg,"双\n2.jpg,猫,狗\n',
            r"a\.csv:2: .* no valid CSV \(unexpected end.*line 3 has 3 fields",
        ),
    ],
)
def test_what_nobody_can_tell_is_an_error_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a.csv", columns=["title"])


def test_what_was_decided_is_recorded(tmp_path: Path) -> None:
    path, readings = tmp_path / "a.tsv", list[Reading]()
    rows = name_pictures(60)
    rows[10][1], rows[14][1] = '"双面羊绒大衣', '液晶显示器 27"'
    write_as_text(path, [COLUMNS, *rows], "\t")
    list(read_csv_rows(path, COLUMNS, "\t", readings=readings))
    note = "quotes are text (line 12: as quoting 4 rows would be lost in cells)"
    assert readings == [Reading(str(path), "utf-8", "\t", "text", 61, 60, [note])]
    path.write_text('picture,title\n1.jpg,"猫"\n2.jpg,狗\n', encoding="gb18030")
    list(read_csv_rows(path, COLUMNS, encoding="gb18030", readings=readings))
    notes = [
        "read as gb18030: `encoding` says so",
        "1 cells are read without their quotes, which they do not need",
    ]
    assert readings[1] == Reading(str(path), "gb18030", ",", "quoting", 3, 2, notes)


def make_title(draw: random.Random, delimiter: str, quoted: bool) -> str:
    word = f"{draw.choice(WORDS)}{draw.randrange(100)}"
    word = draw.choice([word, f'"{word}', f'{word}"', f'{word[:2]}"{word[2:]}', f'{word}"" {word}'])
    if quoted and draw.random() < 0.4:
        word += draw.choice(["\n", "\r\n", "\n\n", delimiter, '""', '\n"', f"{delimiter}\n"]) + draw.choice(WORDS)
    return word


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("quoted", [False, True])
def test_any_table_comes_back_as_it_was_written_whichever_way(tmp_path: Path, seed: int, quoted: bool) -> None:
    draw = random.Random(seed)
    delimiter, columns = draw.choice(",\t"), draw.choice([COLUMNS, COLUMNS[::-1]])
    named = [dict(zip(COLUMNS, row, strict=True)) for row in name_pictures(draw.choice([12, 20, 60]))]
    for row in draw.sample(named, draw.randrange(len(named) // 2)):
        row["title"] = make_title(draw, delimiter, quoted)
    rows = [[row[name] for name in columns] for row in named]
    write = write_quoted if quoted else write_as_text
    write(tmp_path / "a.csv", [columns, *rows], delimiter)
    assert read(tmp_path / "a.csv", delimiter, columns) == rows


@pytest.mark.parametrize("broken", ['"显示器 27" 高清"', '"显示器 27\\" 高清"'])
def test_one_broken_quote_does_not_make_text_of_the_quotes_around_all_cells(tmp_path: Path, broken: str) -> None:
    rows = [[name, f'"{title}"'] for name, title in name_pictures(30)]
    rows[9][1] = broken
    write_as_text(tmp_path / "a.csv", [COLUMNS, *rows], ",")
    with pytest.raises(
        UserError, match=r"a\.csv:11: .* \(\"\", not \\\"\).* 29 rows would keep the quotes around"
    ):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_quotes_around_most_cells_go_also_where_another_cell_holds_one_as_text(
    tmp_path: Path, delimiter: str
) -> None:
    rows = name_pictures(30)
    rows[9][1] = '27" 显示器'
    written = [[name, title if '"' in title else f'"{title}"'] for name, title in rows]
    write_as_text(tmp_path / "a.csv", [COLUMNS, *written], delimiter)
    assert read(tmp_path / "a.csv", delimiter) == rows
