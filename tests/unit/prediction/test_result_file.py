from pathlib import Path

import numpy as np
import pytest

from tuwen.core.errors import UserError
from tuwen.prediction import predict, result_file

TEXTS = ["Word-1000004254", "Word-1000004255", 'Word,引号"与换行\n']
IMAGES = ["Image14001007-4040.jpg", "Image14001007-4041.jpg", "Image14001007-4042.jpg"]
HEADER = "text_id,similarity_ranking,result_image_id\n"


def write(folder: Path, lines: str) -> Path:
    path = folder / "result1.csv"
    path.write_bytes(lines.encode() if isinstance(lines, str) else lines)
    return path


def check(path: Path) -> None:
    predict.require_sound(path, TEXTS[:2], IMAGES, 2, direction="t2i")


GOOD = HEADER + (
    "Word-1000004254,1,Image14001007-4042.jpg\n"
    "Word-1000004254,2,Image14001007-4040.jpg\n"
    "Word-1000004255,1,Image14001007-4040.jpg\n"
    "Word-1000004255,2,Image14001007-4041.jpg\n"
)


def test_the_contests_exact_form(tmp_path):
    path = tmp_path / "result1.csv"
    found = np.array([[2, 0], [0, 1]])
    predict.write_result_file(path, TEXTS[:2], IMAGES, found, direction="t2i")
    assert path.read_bytes() == GOOD.encode()
    check(path)


def test_ids_with_commas_quotes_and_newlines_survive(tmp_path):
    path = tmp_path / "result2.csv"
    predict.write_result_file(path, IMAGES, TEXTS, np.array([[2, 0], [1, 2], [0, 1]]), direction="i2t")
    predict.require_sound(path, IMAGES, TEXTS, 2, direction="i2t")
    assert path.read_bytes().startswith(b"image_id,similarity_ranking,result_text_id\n")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            HEADER,
            "",
            r"line 1: header 'text_id,similarity_ranking,result_image_id' expected, got 'Word-1000004254,",
        ),
        (HEADER, "text_id,rank,result_image_id\n", "line 1: header .* got 'text_id,rank,result_image_id'"),
        (
            HEADER,
            "image_id,similarity_ranking,result_text_id\n",
            r"line 1: the directions are swapped: .* due is: a text asks for pictures \(result1\.csv\)",
        ),
        (
            "Word-1000004254,1,Image14001007-4042.jpg",
            "Image14001007-4042.jpg,1,Word-1000004254",
            "line 2: the directions are swapped: 'Image14001007-4042.jpg' is of the gallery",
        ),
        ("Word-1000004254,2", "Word-9,2", "line 3: 'Word-9' is not a query; use the ids"),
        ("-4041.jpg", "-4041", "line 5: 'Image14001007-4041' is not in the gallery; use the ids"),
        (
            "Word-1000004254,2,",
            "Word-1000004254,3,",
            "line 3: rank '3' of query 'Word-1000004254'; write the whole numbers 1 to 2",
        ),
        (
            "Word-1000004254,2,",
            "Word-1000004254,1,",
            "line 3: query 'Word-1000004254' has rank 1 already on line 2; give each once",
        ),
        (
            "Word-1000004255,1,",
            "Word-1000004255,01,",
            "line 4: rank '01' of query 'Word-1000004255'; write",
        ),
        (
            "-4041.jpg",
            "-4040.jpg",
            "line 5: .*-4040.jpg' stands twice for query 'Word-1000004255', first on line 4; give 2",
        ),
        (
            "Word-1000004255,2,Image14001007-4041.jpg\n",
            "",
            "line 4: query 'Word-1000004255' lacks rank 2; give each query the ranks 1 to 2$",
        ),
        (
            "-4041.jpg\n",
            "-4041.jpg\nWord-1000004254,1,Image14001007-4041.jpg\n",
            "line 6: query 'Word-1000004254' has rank 1 already on line 2",
        ),
        ("Word-1000004254,1,", "Word-1000004254,", "line 2: 3 fields expected, got"),
        ("\n", "\r\n", "line 1: a carriage return; end lines with LF alone"),
        ("Word-1000004254,1,", '"Word-1000004254"x,1,', "line 2: not valid CSV"),
        ("Word-1000004254,1", "\nWord-1000004254,1", r"line 2: 3 fields expected, got \[\]"),
    ],
)
def test_faults_are_named_with_line_value_and_fix(tmp_path, old, new, message):
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UserError, match=r"result1\.csv: " + message):
        check(path)


def test_queries_in_another_order_are_refused(tmp_path):
    lines = GOOD.splitlines(keepends=True)
    path = write(tmp_path, "".join([lines[0], *lines[3:], *lines[1:3]]))
    with pytest.raises(
        UserError, match=r"line 4: query 'Word-1000004254' rank 1 stands after .*5' rank 2; keep the"
    ):
        check(path)


def test_ranks_of_a_query_in_another_order_are_refused(tmp_path):
    first, *rows = GOOD.splitlines(keepends=True)
    path = write(tmp_path, "".join([first, rows[1], rows[0], *rows[2:]]))
    with pytest.raises(
        UserError, match=r"line 3: query 'Word-1000004254' rank 1 stands after .* rank 2; keep .*below"
    ):
        check(path)


def test_every_fault_is_found_not_the_first_alone(tmp_path):
    lines = GOOD.replace("4040", "9999").splitlines(keepends=True)
    path = write(tmp_path, "".join([*lines[:2], "a,b\n", '"x"y,1,z\n', *lines[2:4], "\n"]))
    found = result_file.find_faults(path, TEXTS[:2], IMAGES, 2, direction="t2i")
    assert [(fault.line, fault.kind) for fault in found.faults] == [
        (3, "fields"),
        (4, "csv"),
        (5, "result"),
        (6, "result"),
        (7, "fields"),
        (6, "missing"),
    ]
    assert (found.rows, found.distinct) == (3, 2)


def test_a_file_of_the_other_direction_has_that_one_fault_alone(tmp_path):
    path = tmp_path / "result1.csv"
    predict.write_result_file(path, IMAGES, TEXTS, np.array([[2, 0], [1, 2], [0, 1]]), direction="i2t")
    text = path.read_text(encoding="utf-8").replace("image_id,similarity_ranking,result_text_id", HEADER.strip())
    path.write_text(text, encoding="utf-8")
    found = result_file.find_faults(path, TEXTS, IMAGES, 2, direction="t2i")
    assert [(fault.line, fault.kind) for fault in found.faults] == [(2, "direction")]
    assert "exchange the two files, or the two columns" in found.faults[0].text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xef\xbb\xbf" + GOOD.encode(), "line 1: starts with a byte order mark; save as UTF-8 without BOM"),
        ((GOOD + "狗").encode("gb18030"), "line 6: byte 0xb9 is not UTF-8; save as UTF-8 without BOM"),
        (b"", "header .* expected, got ''"),
    ],
)
def test_wrong_encodings_are_named(tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        check(write(tmp_path, data))


def test_a_file_in_utf_16_has_that_one_fault_alone(tmp_path):
    path = write(tmp_path, GOOD.encode("utf-16"))
    found = result_file.find_faults(path, TEXTS[:2], IMAGES, 2, direction="t2i")
    assert [(fault.line, fault.kind) for fault in found.faults] == [(1, "encoding")]
    assert found.rows == 4


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"result1\.csv: this result file is missing"):
        check(tmp_path / "result1.csv")
