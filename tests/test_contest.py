"""A small contest, from its files to its result files: bad rows, both tasks, ready paraphrases, the refit."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from ruamel.yaml import YAML

from tests.support.checkout import ROOT
from tuwen.core.presets import compose_preset, get_values
from tuwen.data.formats import pairs

COLOURS = {
    "红": "red",
    "绿": "green",
    "蓝": "blue",
    "黄": "gold",
    "紫": "purple",
    "橙": "orange",
    "灰": "gray",
    "青": "cyan",
}
SHAPES = {"圆": "ellipse", "方块": "rectangle"}
PLACES = {"左边": 0, "中间": 16, "右边": 32}
MODELS, SETS = ("baseline", "finetuned"), ("valid", "test", "bank")
STEPS = [
    ["ingest"],
    ["corpus", "more"],
    ["validate"],
    ["augment"],
    ["baseline"],
    ["finetune"],
    ["refit"],
    ["rerank"],
    *(["embed", model, name] for model in MODELS for name in SETS),
    ["embed", "final", "t2i"],
    ["embed", "final", "i2t"],
    ["embed", "final", "bank"],
    *(["evaluate", model] for model in (*MODELS, "reranked")),
    ["predict"],
    ["index"],
    ["report"],
]
# one process for all stages: each would import torch anew
DRIVER = """
import json, runpy, sys
for step in json.loads(sys.argv[1]):
    sys.argv = step
    runpy.run_module("stages." + step[0], run_name="__main__")
"""


def draw(path: Path, number: int, size: tuple[int, int] = (80, 64)) -> str:
    """Draw one coloured shape; its Chinese caption."""
    colour = list(COLOURS)[number % 8]
    shape = list(SHAPES)[number // 8 % 2]
    place = list(PLACES)[number // 16 % 3]
    picture = Image.new("RGB", size, "white")
    left, top = PLACES[place], number // 48 * 3
    getattr(ImageDraw.Draw(picture), SHAPES[shape])((left, top, left + 40, top + 40), fill=COLOURS[colour])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return f"画面{place}有一个{colour}色的{shape}, 第{number}张"


def table(path: Path, header: list[str], rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def labelled(folder: Path, numbers: range) -> None:
    rows = [[f"I-{n:04d}.jpg", draw(folder / f"ImageData/I-{n:04d}.jpg", n)] for n in numbers]
    table(folder / "ImageWordData.csv", ["image_id", "caption"], rows)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("contest")
    first, second, third = (root / "inputs/contest" / name for name in ("附件1", "附件2", "附件3"))
    labelled(first, range(96))
    (first / "ImageData/I-0003.jpg").write_bytes((first / "ImageData/I-0003.jpg").read_bytes()[:200])  # truncated
    (first / "ImageData/I-0004.jpg").unlink()
    labelled(root / "inputs/more", range(100, 164))

    gallery = [f"G-{n:02d}.jpg" for n in range(20)]
    captions = [draw(second / "ImageData" / name, n) for n, name in enumerate(gallery)]
    (second / "ImageData/G-05.jpg").write_bytes(b"not a picture")
    Image.new("RGB", (640, 1)).save(second / "ImageData/G-06.jpg")
    table(second / "image_data.csv", ["image_id"], [[name] for name in gallery])
    queries = [[f"W-{n}", caption] for n, caption in enumerate(captions[:8])]
    queries[2][1] = ""
    table(second / "word_test.csv", ["text_id", "caption"], queries)

    asked = [f"Q-{n:02d}.jpg" for n in range(8)]
    for n, name in enumerate(asked):
        draw(third / "ImageData" / name, n)
    (third / "ImageData/Q-03.jpg").write_bytes(b"GIF89a")
    table(third / "image_test.csv", ["image_id"], [[name] for name in asked])
    texts = [[f"T-{n}", caption] for n, caption in enumerate(captions)]
    texts[7][1] = " "
    table(third / "word_data.csv", ["text_id", "caption"], texts)

    said = [[f"画面左边有一个红色的圆, 第{n}张", f"左边是红色圆形, 第{n}张"] for n in range(96)]
    table(root / "inputs/said.csv", ["caption", "paraphrase"], said)
    write_params(root)
    path = os.environ | {"PYTHONPATH": str(ROOT), "TUWEN_TRACKING_URI": "sqlite:///mlflow.db"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(STEPS)], cwd=root, env=path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def write_params(root: Path) -> None:
    yaml = YAML(typ="safe", pure=True)
    values = get_values(compose_preset("smoke", ROOT / "presets"))
    values["source"] = {"kind": "contest", "root": "inputs/contest"}
    values["corpus"] = {"more": {"kind": "contest", "root": "inputs/more"}}
    values["augment"]["splits"] = ["train", "valid", "test"]
    values["augment"]["policy"]["flip_captions"] = "swap"
    digest = hashlib.sha256((root / "inputs/said.csv").read_bytes()).hexdigest()
    values["augment"]["paraphrase"] = {"kind": "file", "path": "inputs/said.csv", "sha256": digest}
    values["finetune"]["refit_all"] = True
    yaml.dump(values, root / "params.yaml")


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_query_has_five_ranks_and_what_cannot_be_seen_is_never_ranked(project: Path) -> None:
    first, second = rows_of(project / "results/result1.csv"), rows_of(project / "results/result2.csv")
    assert [row["text_id"] for row in first] == [f"W-{n}" for n in range(8) for _ in range(5)]
    assert [row["image_id"] for row in second] == [f"Q-{n:02d}.jpg" for n in range(8) for _ in range(5)]
    assert not {row["result_image_id"] for row in first} & {"G-05.jpg", "G-06.jpg"}
    assert "T-7" not in {row["result_text_id"] for row in second}


def test_the_quarantine_names_file_row_and_outcome_of_each_bad_row(project: Path) -> None:
    found = {(row["set"], row["id"]): row for row in rows_of(project / "data/clean/quarantine.csv")}
    truncated, missing = found["labelled", "I-0003.jpg"], found["labelled", "I-0004.jpg"]
    assert truncated["reason"] == "unreadable"
    assert truncated["file"].endswith("I-0003.jpg")
    assert missing["reason"] == "missing"
    assert {found["t2i", name]["outcome"] for name in ("G-05.jpg", "G-06.jpg")} == {"left_out"}
    assert found["i2t", "T-7"]["outcome"] == "left_out"
    assert found["t2i", "W-2"]["outcome"] == "blank"
    assert found["i2t", "Q-03.jpg"]["outcome"] == "blank"
    assert int(found["i2t", "T-7"]["row"]) == 9  # the header is line 1


def test_nothing_is_lost(project: Path) -> None:
    outcomes = Counter((row["set"], row["outcome"]) for row in rows_of(project / "data/clean/quarantine.csv"))
    clean = {name: pairs.read_pair_set(project / "data/clean" / name) for name in ("t2i", "i2t")}
    for name, images, texts in (("t2i", 20, 8), ("i2t", 8, 20)):
        left = len(clean[name].images) + len(clean[name].texts)
        assert left + outcomes[name, "left_out"] == images + texts


def test_there_are_eight_views_of_every_pair_of_every_split(project: Path) -> None:
    views = pairs.read_table(project / "data/augmented/views.parquet").to_pandas()
    for name in ("train", "valid", "test"):
        clean = pairs.read_pair_set(project / "data/clean" / name)
        assert (views["split"] == name).sum() == 8 * len(clean.pairs)
    mirrored = views[views["flipped"] & views["caption"].str.contains("左|右")]
    assert len(mirrored)
    originals = views[views["view"] == 0].set_index("pair_id")["caption"]
    for row in mirrored.itertuples():
        assert ("左" in row.caption) == ("右" in originals[row.pair_id])
    assert views["caption"].str.startswith("左边是红色圆形").any()


def test_the_answering_model_is_the_refitted_one_and_the_report_says_it_is_not_measured(project: Path) -> None:
    made = {name: (project / "models" / name / "manifest.json").read_bytes() for name in ("finetuned", "final")}
    assert made["final"] != made["finetuned"]
    report = (project / "results/report.md").read_text(encoding="utf-8")
    assert "not measured" in report
    assert not (project / "results/final").exists()
