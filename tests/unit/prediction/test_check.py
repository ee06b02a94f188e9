"""`tuwen check` on files of the contest's size, sound and broken."""

import csv
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tuwen import cli
from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.prediction.check import MAX_FAULTS_SHOWN, check_result_file, read_ids

QUERIES, GALLERY, K = 5000, 50000, 5
TEXT_IDS = [f"Word-{1000004254 + n}" for n in range(QUERIES)]
IMAGE_IDS = [f"Image14001007-{n:05d}.jpg" for n in range(GALLERY)]
CAPTION = '雨后的西湖,断桥上游人"如织"\n远处是雷峰塔'
Rows = list[list[str]]


def write_csv(path: Path, rows: Rows, encoding: str = "utf-8") -> Path:
    with open(path, "w", encoding=encoding, newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attachments")
    texts = [["text_id", "caption"], *([text_id, CAPTION] for text_id in TEXT_IDS)]
    write_csv(folder / "word_test.csv", texts)
    write_csv(folder / "image_data.csv", [["image_id"], *([image_id] for image_id in IMAGE_IDS)])
    return folder


@pytest.fixture
def rows() -> Rows:
    draw = random.Random(0)
    header = ["text_id", "similarity_ranking", "result_image_id"]
    answers = ([t, str(n), i] for t in TEXT_IDS for n, i in enumerate(draw.sample(IMAGE_IDS, K), 1))
    return [header, *answers]


def judged(task: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[bool, list[str]]:
    sound = check_result_file(path, task / "word_test.csv", task / "image_data.csv", K)
    return sound, [line.removeprefix(f"{path}: ") for line in capsys.readouterr().out.splitlines()]


def test_a_sound_file_of_25000_rows(task, rows, tmp_path, capsys):
    sound, lines = judged(task, write_csv(tmp_path / "result1.csv", rows), capsys)
    distinct = len({row[2] for row in rows[1:]})
    assert (sound, lines) == (True, [f"sound: 5000 queries, 25000 rows, {distinct} distinct results"])


def test_all_kinds_of_faults_are_named_at_once(task, rows, tmp_path, capsys):
    rows[7][2] = rows[6][2]
    rows[100][0] = "Word-1"
    rows[200][2] = "Image9.jpg"
    rows[300][1] = "0"
    rows[400].append("more")
    rows[499] = [rows[499][2], rows[499][1], rows[499][0]]
    rows[501:511] = rows[506:511] + rows[501:506]
    path = write_csv(tmp_path / "result1.csv", rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"ranking,", b"rank,", 1).replace(b"\n", b"\r\n"))
    sound, lines = judged(task, path, capsys)
    assert not sound
    for expected in (
        "line 1: starts with a byte order mark; save as UTF-8 without BOM",
        "line 1: a carriage return; end lines with LF alone",
        "line 1: header 'text_id,similarity_ranking,result_image_id' expected, got 'text_id,similarity_rank,",
        f"line 8: {rows[7][2]!r} stands twice for query 'Word-1000004255', first on line 7; give 5 different",
        "line 101: 'Word-1' is not a query",
        "line 201: 'Image9.jpg' is not in the gallery",
        "line 301: rank '0' of query 'Word-1000004313'; write the whole numbers 1 to 5",
        f"line 401: 3 fields expected, got {rows[400]}; write query, rank and result",
        "line 500: the directions are swapped: 'Image",
        "line 507: query 'Word-1000004354' rank 1 stands after query 'Word-1000004355' rank 5; keep the order",
        "line 100: query 'Word-1000004273' lacks rank 5; give each query the ranks 1 to 5",
    ):
        assert sum(line.startswith(expected) for line in lines) == 1, expected
    assert lines[-1] == f"{len(lines) - 1} faults"


def test_a_fault_on_every_line_is_counted_not_listed(task, rows, tmp_path, capsys):
    for row in rows[1:]:
        row[2] = row[2].removesuffix(".jpg")
    sound, lines = judged(task, write_csv(tmp_path / "result1.csv", rows), capsys)
    assert not sound
    assert len(lines) == MAX_FAULTS_SHOWN + 2
    assert lines[-2:] == [f"{25000 - MAX_FAULTS_SHOWN} more faults like these (result)", "25000 faults"]


def test_only_the_first_batch_was_written(task, rows, tmp_path, capsys):
    sound, lines = judged(task, write_csv(tmp_path / "result1.csv", rows[: 1 + 32 * K]), capsys)
    assert not sound
    assert (
        lines[0] == "line 161: query 'Word-1000004286' lacks rank 1, 2, 3, 4, 5; give each query the ranks 1 to 5"
    )
    assert lines[-1] == f"{QUERIES - 32} faults"


@pytest.mark.parametrize("distinct", [K, 32 * K])
def test_a_batch_written_again_and_again_is_a_warning(task, rows, tmp_path, capsys, distinct):
    for n, row in enumerate(rows[1:]):
        row[2] = IMAGE_IDS[n % distinct]
    sound, lines = judged(task, write_csv(tmp_path / "result1.csv", rows), capsys)
    assert sound
    assert lines[0].startswith(f"warning: only {distinct} distinct results in 25000 rows; ")
    assert "about 19674" in lines[0]


def test_strong_hubs_are_no_warning(task, rows, tmp_path, capsys):
    draw = random.Random(0)
    for start in range(1, len(rows), K):
        # four of five answers are among 500 hubs
        hubs = draw.sample(IMAGE_IDS[:500], K - 1)
        for row, item in zip(rows[start : start + K], [*hubs, draw.choice(IMAGE_IDS[500:])], strict=True):
            row[2] = item
    sound, lines = judged(task, write_csv(tmp_path / "result1.csv", rows), capsys)
    assert sound
    assert len(lines) == 1


def test_the_command_ends_with_0_or_1(task, rows, tmp_path):
    path = write_csv(tmp_path / "result1.csv", rows)
    command = ["check", str(path), "--queries", str(task / "word_test.csv")]
    good = CliRunner().invoke(cli.app, [*command, "--gallery", str(task / "image_data.csv")])
    assert (good.exit_code, "sound: 5000 queries" in good.output) == (0, True)
    swapped = ["check", str(path), "--queries", str(task / "image_data.csv")]
    bad = CliRunner().invoke(cli.app, [*swapped, "--gallery", str(task / "word_test.csv")])
    assert bad.exit_code == 1
    assert "line 1: the directions are swapped" in bad.output
    assert "line 2: the directions are swapped" in bad.output
    assert "2 faults" in bad.output


def test_tables_are_read_in_every_form(tmp_path):
    texts = [["caption", "text_id"], [CAPTION, "句,1"], ["", "句\n2"]]
    for encoding in ("utf-8", "utf-8-sig", "gb18030"):
        found = read_ids(write_csv(tmp_path / f"{encoding}.csv", texts, encoding))
        assert found == ("text_id", ["句,1", "句\n2"])
    table = pairs.pa.Table.from_pylist([{"text_id": "句,1"}, {"text_id": "句\n2"}], pairs.TEXTS)
    for name in ("texts.parquet", "TEXTS.PARQUET"):
        pairs.write_table(tmp_path / name, table)
        assert read_ids(tmp_path / name) == ("text_id", ["句,1", "句\n2"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            [["image_id"], ["a.jpg"], ["b.jpg"], ["a.jpg"]],
            r":4: 'a\.jpg' stands on line 2 too; give each image_id once",
        ),
        ([["id"], ["1"]], r"one of the columns text_id and image_id expected, found \['id'\]"),
        ([["image_id", "text_id"], ["1", "2"]], "one of the columns text_id and image_id expected"),
        ([["image_id"]], "no row; name the table"),
        ([], "the file is empty"),
    ],
)
def test_unsound_tables_are_refused(tmp_path, table, message):
    with pytest.raises(UserError, match=message):
        read_ids(write_csv(tmp_path / "image_data.csv", table))


def test_two_tables_of_one_side_and_missing_files_are_refused(task, tmp_path):
    with pytest.raises(UserError, match="both have the column text_id; one must hold texts"):
        check_result_file(tmp_path / "result1.csv", task / "word_test.csv", task / "word_test.csv", K)
    with pytest.raises(UserError, match=r"result1\.csv: this result file is missing"):
        check_result_file(tmp_path / "result1.csv", task / "word_test.csv", task / "image_data.csv", K)
    with pytest.raises(UserError, match=r"none\.csv: not found, or not a file"):
        check_result_file(tmp_path / "result1.csv", tmp_path / "none.csv", task / "image_data.csv", K)
    with pytest.raises(UserError, match=r"cannot be read .*; name a CSV file"):
        check_result_file(tmp_path, task / "word_test.csv", task / "image_data.csv", K)
