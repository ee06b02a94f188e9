"""Two errands of docs/architecture.md, walked in a copy of the code: they really touch the files that it lists."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.support.checkout import ROOT
from tests.support.retrieval import build

SOURCE = '''"""Captions in files beside the images: cat.png and cat.txt."""

from pathlib import Path

from tuwen.core.params.data import SidecarSource
from tuwen.data.formats.image_files import ImageFiles
from tuwen.data.sources.files import make_relative, read_image_file
from tuwen.data.sources.records import ImageRecord, PairRecord, SourceSets, TextRecord


def read(source: SidecarSource) -> SourceSets:
    """Return the pairs below `source.root`."""
    return {"labelled": _read(Path(source.root))}


def _read(root):
    files = ImageFiles(root)
    for path in sorted(root.glob("*.txt")):
        image = path.with_suffix(".png")
        data, found = read_image_file(files, image.name)
        file = make_relative(path, root)
        yield ImageRecord(image.name, data, image.name, fault=found.fault)
        yield TextRecord(path.stem, path.read_text(encoding="utf-8"), file)
        yield PairRecord(path.stem, image.name, path.stem, file)
'''
SETTINGS = '''class SidecarSource(Strict):
    """Captions in files beside the images."""

    kind: Literal["sidecar"]
    root: str


Source = Annotated[
    SidecarSource
    | '''
CASE = """        case "sidecar":
            from tuwen.data.sources import sidecar

            return sidecar.read(source)
        case "sample":
"""

METRIC = """    "reciprocal_rank": Metric(
        name="{direction}_reciprocal_rank",
        title="reciprocal rank",
        unit=DECIMAL,
        source=OfQueries(metrics.compute_reciprocal_ranks),
        has_interval=True,
        in_gate=True,
    ),
}
FIGURES |= """
FUNCTION = '''def compute_reciprocal_ranks(judged: Judged, ks: Sequence[int]) -> Floats:
    """Return 1 / rank of the best true item, [N, 1]."""
    return 1 / judged.best_rank[:, None]


def compute_hits('''
READER = """
from pathlib import Path
from flows.show import format_recall
from tuwen.core.params import load_params
from tuwen.evaluation.compare import compare_ranks, format_changes
from tuwen.evaluation.results import read_results

params, results = load_params().evaluate, Path("results")
print(format_recall(read_results(results, params.ks), params), "", sep="\\n\\n")
ranks = (results / model / "ranks.parquet" for model in ("baseline", "finetuned"))
print(format_changes(compare_ranks(*ranks, params)))
"""


class Copy:
    """A copy of the code in which an errand is done, and the files that it touched."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.touched = set[str]()
        for package in ("tuwen", "stages", "flows"):
            shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))

    def write(self, name: str, text: str) -> None:
        """Write a new file of the code."""
        self.touched.add(name)
        (self.root / name).write_text(text, encoding="utf-8")

    def replace(self, name: str, old: str, new: str) -> None:
        """Replace a text that a file of the code holds just once."""
        text = (self.root / name).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name}: {old!r} stands there {text.count(old)} times"
        self.write(name, text.replace(old, new))

    def run(self, *command: str) -> str:
        """Run the copy's code by `python …` in the copy's folder; its output."""
        environment = os.environ | {"PYTHONPATH": str(self.root)}
        done = subprocess.run(
            [sys.executable, *command], cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def listed_files(errand: str) -> list[str]:
    """The files of the library that docs/architecture.md lists for an errand, in its order."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    section = re.search(rf"^\*\*{errand}\.\*\*(.+?)(?=^\*\*|^#)", page, flags=re.DOTALL | re.MULTILINE)
    assert section, f"docs/architecture.md has no errand {errand!r}"
    return re.findall(r"`(tuwen/[\w/<>.-]+\.(?:py|j2))`", section[1])


def test_a_new_source_touches_the_files_that_the_page_lists(copy: Copy) -> None:
    copy.write("tuwen/data/sources/sidecar.py", SOURCE)
    copy.replace("tuwen/core/params/data.py", "Source = Annotated[\n    ", SETTINGS)
    copy.replace("tuwen/data/sources/__init__.py", '        case "sample":\n', CASE)
    assert copy.touched == {name.replace("<kind>", "sidecar") for name in listed_files("A new source")}

    (copy.root / "inputs").mkdir()
    for name, caption in (("cat", "一只橘猫趴在窗台上"), ("dog", "雪地里奔跑的小狗")):
        Image.new("RGB", (20, 20), "orange").save(copy.root / "inputs" / f"{name}.png")
        (copy.root / "inputs" / f"{name}.txt").write_text(caption, encoding="utf-8")
    params = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    params["source"] = {"kind": "sidecar", "root": "inputs"}
    YAML(typ="safe", pure=True).dump(params, copy.root / "params.yaml")
    copy.run("-m", "stages.ingest")
    texts = pq.read_table(copy.root / "data/raw/labelled/texts.parquet")
    images = pq.read_table(copy.root / "data/raw/labelled/images.parquet")
    assert texts["caption"].to_pylist() == ["一只橘猫趴在窗台上", "雪地里奔跑的小狗"]
    assert images["image_id"].to_pylist() == ["cat.png", "dog.png"]
    assert images["fault"].null_count == 2


def test_a_new_metric_touches_the_files_that_the_page_lists(copy: Copy, store: Path) -> None:
    build(copy.root)
    copy.replace("tuwen/retrieval/metrics.py", "def compute_hits(", FUNCTION)
    copy.replace("tuwen/evaluation/figures.py", "}\nFIGURES |= ", METRIC)
    assert copy.touched == set(listed_files("A new metric"))

    for model in ("baseline", "finetuned"):
        copy.run("-m", "stages.evaluate", model)
    copy.run("-m", "stages.report")
    names = [f"{direction}_reciprocal_rank{end}" for direction in ("t2i", "i2t") for end in ("", "_low", "_high")]
    for model in ("baseline", "finetuned"):
        metrics = json.loads((copy.root / "results" / model / "metrics.json").read_text(encoding="utf-8"))["test"]
        assert [0 < metrics[name] <= 1 for name in names] == [True] * 6
    value = re.escape(f"{metrics['t2i_reciprocal_rank']:.2f} [")
    shown, compared = copy.run("-c", READER).rsplit("\n\n", 1)
    report = (copy.root / "results/report.md").read_text(encoding="utf-8")
    assert re.search(rf"\| text → image \| reciprocal rank \| .*{value}", report)
    assert "reciprocal rank" in (copy.root / "results/report.html").read_text(encoding="utf-8")
    assert re.search(rf"\| text → image reciprocal rank \| .*{value}", shown)
    assert re.search(r"\| text → image \| \d+ \| reciprocal rank \| .*\[", compared)
    logged = {name for run in runs_in(store) for name in run.data.metrics}
    assert {f"test_{name}" for name in names[::3]} <= logged


def runs_in(store: Path) -> list[Any]:
    """All runs of an MLflow database."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store}")
    return list(client.search_runs([one.experiment_id for one in client.search_experiments()]))
