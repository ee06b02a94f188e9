"""`tuwen check --truth`: what result files are worth, in both directions and by both forms of truth."""

import csv
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from tuwen import cli
from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.prediction.check import check_result_file

CAPTIONS = {"t1": "一只橘猫趴在窗台上", "t2": "海边的日落", "t3": '雨后的西湖,"如织"的游人', "t4": "海边的日落"}
IMAGES = [f"图{n}.jpg" for n in range(1, 7)]
TRUE = [("图1.jpg", "t1"), ("图2.jpg", "t2"), ("图2.jpg", "t4"), ("图3.jpg", "t3"), ("图4.jpg", "t3")]


def write_csv(name: str, *rows: tuple[object, ...]) -> None:
    with open(name, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


@pytest.fixture(autouse=True)
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four texts, six pictures, two ranks; t1 is right at 1, t2 at 2, t3 at 2, t4 nowhere."""
    monkeypatch.chdir(tmp_path)
    write_csv("texts.csv", ("text_id", "caption"), *CAPTIONS.items())
    write_csv("images.csv", ("image_id",), *((one,) for one in IMAGES))
    answers = {"t1": (1, 5), "t2": (6, 2), "t3": (6, 4), "t4": (5, 6)}
    rows = [(text, n, f"图{one}.jpg") for text, found in answers.items() for n, one in enumerate(found, 1)]
    write_csv("result1.csv", ("text_id", "similarity_ranking", "result_image_id"), *rows)
    found = {"图1.jpg": ("t2", "t1"), "图2.jpg": ("t4", "t1"), "图3.jpg": ("t1", "t2")}
    found |= {"图4.jpg": ("t3", "t1"), "图5.jpg": ("t1", "t2"), "图6.jpg": ("t1", "t2")}
    rows = [(image, n, one) for image, texts in found.items() for n, one in enumerate(texts, 1)]
    write_csv("result2.csv", ("image_id", "similarity_ranking", "result_text_id"), *rows)
    write_csv("ids.csv", ("image_id", "text_id"), *TRUE)
    write_csv("ImageWordData.csv", ("image_id", "caption"), *((i, CAPTIONS[t]) for i, t in TRUE[:2] + TRUE[3:]))


def score(capsys: pytest.CaptureFixture[str], file: str, *tables: str, truth: str) -> list[str]:
    assert check_result_file(file, *tables, k=2, truth=truth)
    return capsys.readouterr().out.splitlines()[1:]


@pytest.mark.parametrize("truth", ["ids.csv", "ImageWordData.csv"])
def test_a_file_of_texts_is_scored_by_ids_and_by_captions(truth: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked, first, second, _ = score(capsys, "result1.csv", "texts.csv", "images.csv", truth=truth)
    assert asked == "4 of 4 queries are scored"
    assert first.startswith("R@1     25.0 %  [")
    assert first.endswith("chance 20.8 %")  # one of six for three of them, two of six for t3
    assert second.startswith("R@2     75.0 %  [")


@pytest.mark.parametrize("truth", ["ids.csv", "ImageWordData.csv"])
def test_a_file_of_pictures_says_which_have_no_truth(truth: str, capsys: pytest.CaptureFixture[str]) -> None:
    such = "'图5.jpg', '图6.jpg'"
    asked, first, second, _ = score(capsys, "result2.csv", "images.csv", "texts.csv", truth=truth)
    assert asked == f"4 of 6 queries are scored; 2 have no true item of this gallery in {truth}, such as {such}"
    assert first.startswith("R@1     50.0 %")
    assert second.startswith("R@2     75.0 %")


def test_all_wrong_is_not_worth_nothing_for_certain(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("ids.csv", ("image_id", "text_id"), ("图5.jpg", "t2"), ("图4.jpg", "t1"))
    lines = score(capsys, "result1.csv", "texts.csv", "images.csv", truth="ids.csv")
    assert lines[1] == "R@1      0.0 %  [0.0, 84.2]  chance 16.7 %"  # Clopper and Pearson, 0 of 2


def test_what_the_tables_do_not_hold_is_counted_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(
        "ids.csv", ("image_id", "text_id"), *TRUE[:1], ("别处.jpg", "t2"), ("图3.jpg", "t9"), ("图3.jpg", "t8")
    )
    lines = score(capsys, "result1.csv", "texts.csv", "images.csv", truth="ids.csv")
    assert lines[0].startswith(
        "1 of 4 queries are scored; 3 have no true item of this gallery in ids.csv, such as 't2'"
    )
    assert "ids.csv: 1 images of 4 pairs are not in the tables, such as '别处.jpg'" in lines
    assert "ids.csv: 2 texts of 4 pairs are not in the tables, such as 't9', 't8'" in lines
    write_csv("ids.csv", ("image_id", "text_id", "label"), (*TRUE[0], 1), (*TRUE[1], 0))
    assert score(capsys, "result1.csv", "texts.csv", "images.csv", truth="ids.csv")[0].startswith("1 of 4 ")


def test_a_parquet_of_ours_is_a_truth(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"pair_id": f"p{n}", "image_id": i, "text_id": t} for n, (i, t) in enumerate(TRUE)]
    pairs.write_table(Path("pairs.parquet"), pa.Table.from_pylist(rows, pairs.PAIRS))
    Path("PAIRS.PARQUET").write_bytes(Path("pairs.parquet").read_bytes())
    by_ids = score(capsys, "result1.csv", "texts.csv", "images.csv", truth="ids.csv")
    for truth in ("pairs.parquet", "PAIRS.PARQUET"):
        assert score(capsys, "result1.csv", "texts.csv", "images.csv", truth=truth) == by_ids


def test_a_truth_that_cannot_be_used_is_named_with_its_remedy() -> None:
    write_csv("none.csv", ("image_id", "text_id"), ("a.jpg", "x"))
    write_csv("other.csv", ("picture", "words"), ("a.jpg", "x"))
    write_csv("bare.csv", ("text_id",), *((one,) for one in CAPTIONS))
    for texts, truth, message in (
        ("texts.csv", "none.csv", "none of its 1 pairs is an image and a text of this task"),
        (
            "texts.csv",
            "other.csv",
            r"image_id,text_id\[,label\] or .* or image_id,caption\[,label\] expected, got 'picture,words'",
        ),
        ("texts.csv", "gone.csv", "no such file"),
        ("bare.csv", "ImageWordData.csv", "bare.csv:2: no column caption"),
    ):
        with pytest.raises(UserError, match=message):
            check_result_file("result1.csv", texts, "images.csv", k=2, truth=truth)


def test_a_file_with_a_fault_is_not_scored(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", "result1.csv", "--queries", "texts.csv", "--gallery", "images.csv", "--truth", "ids.csv"]
    done = CliRunner().invoke(cli.app, [*arguments, "-k", "3"])
    assert done.exit_code == 1
    assert done.output.endswith("faults, so it is not scored\n")
    assert "R@1 " in CliRunner().invoke(cli.app, [*arguments, "-k", "2"]).output
