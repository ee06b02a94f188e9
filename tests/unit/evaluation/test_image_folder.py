"""`tuwen classify` on images that lie in a folder for each class, or that a CSV names."""

import csv
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.training import COLOURS, drawn
from tuwen import cli
from tuwen.core.errors import UserError
from tuwen.evaluation import image_folder
from tuwen.evaluation.zero_shot import ENSEMBLE, ONE_PROMPT
from tuwen.report.html.confusion import draw_confusion


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Seven folders of drawings, the picture's colour the folder's name; the same as a CSV."""
    rows = [["path", "label"]]
    for number in range(14):
        label = list(COLOURS)[number % 7]
        path = tmp_path / "按颜色" / label / "深一层" / f"{number}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn(number))
        rows.append([str(path.relative_to(tmp_path)), f" {label}"])
    (tmp_path / "按颜色/.DS_Store").write_bytes(b"")
    with open(tmp_path / "图.csv", "w", encoding="gb18030", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


def call(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["classify", *map(str, words)])
    return done.exit_code, done.output


def test_a_tree_and_a_csv_of_the_same_pictures_give_the_same_report(folder: Path, tree: Path) -> None:
    for option, source in (("--folder", tree / "按颜色"), ("--csv", tree / "图.csv")):
        code, printed = call("--model", folder, option, source, "--out", tree / f"out/{option}.json")
        assert code == 0, printed
        shares = r" {1,3}\d+\.\d% \[\d+\.\d%, \d+\.\d%\]"
        assert re.search(rf"\nall, by the ensemble        14 {shares} +{shares}\n", printed), printed
        assert f"\nall, by chance              14   14.3%{' ' * 20}71.4%\n" in printed
        assert "\nall, largest class          14   14.3%\n" in printed
    made = [(tree / f"out/{option}.json").read_text(encoding="utf-8") for option in ("--folder", "--csv")]
    assert made[0] == made[1]
    report = json.loads(made[0])
    assert report["classes"] == sorted(COLOURS)
    assert sum(map(sum, report["confusion"])) == report["pictures"] == 14
    drawing = (tree / "out/--csv.svg").read_text(encoding="utf-8")
    assert drawing == draw_confusion(report["classes"], report["confusion"])


def test_own_templates_are_the_ensemble(folder: Path, tree: Path) -> None:
    (tree / "one.txt").write_text(f"{ONE_PROMPT}\n\n", encoding="utf-8")
    command = ("--model", folder, "--folder", tree / "按颜色", "--templates", tree / "one.txt")
    assert call(*command, "--out", tree / "one.json")[0] == 0
    report = json.loads((tree / "one.json").read_text(encoding="utf-8"))
    assert report["ensemble"] == report["one_prompt"]


def test_files_that_are_no_pictures_are_counted(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "按颜色/readme.txt").write_text("说明")
    (tree / "按颜色/散.png").write_bytes(drawn(1))
    assert len(image_folder.read_labelled_tree(tree / "按颜色")) == 14
    assert "2 files are no pictures in a class folder" in capsys.readouterr().err


def test_names_are_read_and_hidden_files_passed_by_as_every_source_does(tree: Path, capsys) -> None:
    for name in ("._1.jpg", "Thumbs.db", "__MACOSX/1.jpg"):
        (tree / "按颜色/红" / name).parent.mkdir(exist_ok=True)
        (tree / "按颜色/红" / name).write_bytes(b"")
    (tree / "按颜色/红/1.jfif").write_bytes(drawn(0))
    assert len(image_folder.read_labelled_tree(tree / "按颜色")) == 15
    lines = ["path,label", "按颜色\\红\\深一层\\0.png,红", " 按颜色/红/1.jfif,红", f"{tree}/按颜色/红/1.jfif,红"]
    (tree / "图.csv").write_text("\n".join(lines), encoding="utf-8")
    found = [one.path.relative_to(tree).as_posix() for one in image_folder.read_labelled_csv(tree / "图.csv")]
    assert found == ["按颜色/红/深一层/0.PNG", "按颜色/红/1.jfif", "按颜色/红/1.jfif"]
    log = capsys.readouterr().err
    assert "names read otherwise: backslashes and upper and lower case: 1" in log
    assert "names read otherwise: blanks around it: 1" in log


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("path,label\n1.png,\n", r"图\.csv:2: the label is empty"),
        ("path,label\n", "no row; write one for each picture"),
        ("path,class\n1.png,红\n", r"the header lacks \['label'\]"),
        ("path,label\n按颜色/红/深一层/0.PNG,红\n", "2: name pictures of two classes at least"),
        ("path,label\nnone.png,红\nnone.png,蓝\n", r"图\.csv:2: .*none\.png cannot be read .*No such file"),
        (
            "path,label\n图.csv,红\n图.csv,蓝\n",
            r"图\.csv:[23]: .*图\.csv cannot be read .*mend it or leave it out",
        ),
    ],
)
def test_mistakes_in_a_csv_name_the_line(folder: Path, tree: Path, lines: str, message: str) -> None:
    (tree / "图.csv").write_text(lines, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        image_folder.classify_labelled_images(folder, image_folder.read_labelled_csv(tree / "图.csv"), ENSEMBLE)


def test_other_mistakes_name_place_and_fix(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; name one that holds"):
        image_folder.read_labelled_tree(tree / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no picture in a folder of its class"):
        image_folder.read_labelled_tree(tmp_path / "empty")
    for text, message in (("一张图片\n", ":1: '一张图片'; write one {} where"), ("\n", "no prompt; write one")):
        (tmp_path / "t.txt").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            image_folder.read_templates(tmp_path / "t.txt")
    for words in ((), ("--folder", "a", "--csv", "b")):
        done = CliRunner().invoke(cli.app, ["classify", "--model", "m", *words])
        assert "give either --folder or --csv" in str(done.exception)
