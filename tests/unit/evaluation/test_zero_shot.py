"""Zero-shot classification with a small real model, and with vectors whose answers are known."""

import csv
import json
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.support.training import COLOURS, drawn
from tuwen import cli
from tuwen.core.errors import UserError
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.text import build_vocabulary, load_tokenizer
from tuwen.evaluation import image_folder, zero_shot
from tuwen.evaluation.zero_shot import ENSEMBLE, ONE_PROMPT
from tuwen.model import dual_encoder
from tuwen.report.html.confusion import draw_confusion
from tuwen.retrieval import encode

LABELS = ["动物和自然", "食物和饮料", "旅行和地点"]
CONFIG = {
    "dim": 16,
    "image": {"size_px": 16, "patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.0},
    "text": {"width": 64, "layers": 1, "dropout": 0.0, "max_tokens": 32},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "m"
    vocabulary = build_vocabulary([*ENSEMBLE, *LABELS, *COLOURS])
    torch.manual_seed(0)
    dual_encoder.save_model(dual_encoder.DualEncoder(CONFIG | {"vocabulary": len(vocabulary)}), folder, vocabulary)
    manifest.write_manifest(folder, {}, {})
    return folder


def near(folder: Path, labels: list[str]) -> np.ndarray:
    """Pictures that lie on the ensemble's class vectors."""
    loaded = dual_encoder.load_model(folder)
    return zero_shot.make_class_vectors(loaded, load_tokenizer(folder / "vocab.txt"), labels, ENSEMBLE)


def write_set(root: Path, categories: list[str | None], vectors: np.ndarray) -> tuple[Path, Path]:
    rows = [{"image_id": f"图{n}.png", "category": category} for n, category in enumerate(categories)]
    images = pairs.pa.Table.from_pylist(rows, pairs.IMAGES)
    pairs.write_pair_set(
        root / "clean/test", pairs.PairSet(images, pairs.TEXTS.empty_table(), pairs.PAIRS.empty_table())
    )
    (root / "embeddings").mkdir()
    np.save(root / "embeddings/images.npy", vectors)
    return root / "embeddings", root / "clean/test"


def test_a_class_vector_is_the_mean_of_its_prompts_brought_to_length_one(folder: Path) -> None:
    loaded, tokenizer = dual_encoder.load_model(folder), load_tokenizer(folder / "vocab.txt")
    found = zero_shot.make_class_vectors(loaded, tokenizer, LABELS, ENSEMBLE)
    for label, vector in zip(LABELS, found, strict=True):
        prompts = [template.replace("{}", label) for template in ENSEMBLE]
        mean = encode.embed_captions(loaded, tokenizer, prompts, 1).astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_the_templates_are_chinese_prompts_and_each_stands_once() -> None:
    assert 20 <= len(ENSEMBLE) == len(set(ENSEMBLE)) <= 40
    assert ENSEMBLE[0] == ONE_PROMPT == "这是一张{}图片"
    assert all(template.count("{}") == 1 for template in ENSEMBLE)


def test_shares_classes_and_confusion_equal_a_count_by_hand(folder: Path) -> None:
    first, second, third = near(folder, sorted(LABELS))
    images = np.stack([first, second, second, third, third])
    a, b, c = sorted(LABELS)
    report = zero_shot.classify_images(dual_encoder.load_model(folder), folder, images, [a, b, a, c, b], ENSEMBLE)
    assert report["classes"] == [a, b, c]
    assert report["ensemble"] == {"top_1": 0.6, "top_5": 1.0}  # three classes: all of them are among five
    assert report["confusion"] == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert report["per_class"] == [
        {"class": a, "pictures": 2, "top_1": 0.5},
        {"class": b, "pictures": 2, "top_1": 0.5},
        {"class": c, "pictures": 1, "top_1": 1.0},
    ]
    one = zero_shot.make_class_vectors(
        dual_encoder.load_model(folder), load_tokenizer(folder / "vocab.txt"), [a, b, c], [ONE_PROMPT]
    )
    said = (images.astype(np.float64) @ one.T.astype(np.float64)).argmax(axis=1)
    assert report["one_prompt"]["top_1"] == round(float((said == [0, 1, 0, 2, 1]).mean()), 6)


def test_five_of_many_classes(folder: Path) -> None:
    names = sorted(COLOURS)
    vectors = near(folder, names)
    report = zero_shot.classify_images(
        dual_encoder.load_model(folder), folder, vectors, [*names[1:], names[0]], ENSEMBLE
    )
    order = np.argsort(-(vectors.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)[:, :5]
    hits = [(n + 1) % len(names) in row for n, row in enumerate(order)]
    assert report["ensemble"] == {"top_1": 0.0, "top_5": round(sum(hits) / len(hits), 6)}
    assert 0 < sum(hits) < len(hits)


def test_pictures_without_a_category_are_left_out(folder: Path, tmp_path: Path) -> None:
    vectors = near(folder, [LABELS[0], LABELS[1], LABELS[2], LABELS[1]])
    embedded, set_folder = write_set(tmp_path, [LABELS[0], None, LABELS[2], ""], vectors)
    zero_shot.evaluate_zero_shot(folder, embedded, set_folder, tmp_path / "results/m/zero_shot.json")
    report = json.loads((tmp_path / "results/m/zero_shot.json").read_text(encoding="utf-8"))
    assert (report["pictures"], report["classes"]) == (2, sorted([LABELS[0], LABELS[2]]))
    assert report["ensemble"]["top_1"] == 1.0


@pytest.mark.parametrize("categories", [[None, None], ["动物", None], []])
def test_a_set_without_categories_gives_an_empty_report_and_loads_no_model(
    tmp_path: Path, categories: list[str | None]
) -> None:
    embedded, set_folder = write_set(tmp_path, categories, np.ones((len(categories), 1), np.float32))
    zero_shot.evaluate_zero_shot(tmp_path / "no model", embedded, set_folder, tmp_path / "zero_shot.json")
    assert json.loads((tmp_path / "zero_shot.json").read_text()) == {
        "classes": [],
        "pictures": 0,
        "one_prompt": {"top_1": 0.0, "top_5": 0.0},
        "ensemble": {"top_1": 0.0, "top_5": 0.0},
        "per_class": [],
        "confusion": [],
    }


# tuwen classify


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
        assert "all, by the ensemble        14  " in printed, printed
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


# The confusion picture


def test_each_count_stands_in_its_cell_and_names_are_text() -> None:
    names = ["<script>", "食物 & 饮料"]
    root = xml.etree.ElementTree.fromstring(draw_confusion(names, [[3, 1], [0, 4]]))
    space = "{http://www.w3.org/2000/svg}"
    cells = [rect for rect in root.iter(f"{space}rect") if rect.find(f"{space}title") is not None]
    said = [(cell.findtext(f"{space}title"), float(cell.get("fill-opacity", 0))) for cell in cells]
    assert said == [
        ("<script> → <script>: 3", 0.45),
        ("<script> → 食物 & 饮料: 1", 0.15),
        ("食物 & 饮料 → 食物 & 饮料: 4", 0.6),
    ]
    x, y = ([float(cell.get(side, 0)) for cell in cells] for side in "xy")
    assert x[0] < x[1] == x[2]
    assert y[0] == y[1] < y[2]
    texts = [text.text for text in root.iter(f"{space}text")]
    assert texts.count("<script>") == texts.count("食物 & 饮料") == 2
    assert draw_confusion([], []) == ""


def test_a_thousand_classes_stay_a_small_picture() -> None:
    counts = np.eye(1000, dtype=int).tolist()
    drawing = draw_confusion([f"类别{n}" for n in range(1000)], counts)
    root = xml.etree.ElementTree.fromstring(drawing)
    assert float(root.get("width", 0)) < 4100
    assert len(drawing) < 400_000
