"""A project with a small real model, a re-ranker over it, a corpus, and the index that is searched."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.reranker_world import build_reranked, write_choices
from tuwen.core.params import Embed, Index
from tuwen.data.formats import pairs
from tuwen.data.formats.json_file import read_json, write_json
from tuwen.service.index.build import Project, write_index

LICENCES = [{"source": "art", "text": "OpenMoji, CC BY-SA 4.0", "link": "https://openmoji.org"}]
INDEX = Index.model_validate(
    {"sets": ["test", "bank", "corpus"], "store": {"kind": "exact"}, "licences": LICENCES}
)
EMBED = Embed(batch_size=8, dtype="float32")
CURVES = {
    "finetuned": {"cosine": {"slope": 3.0, "intercept": -1.0}},
    "reranked": {"cosine": {"slope": 3.0, "intercept": -1.0}, "reranked": {"slope": 2.0, "intercept": -0.5}},
}
CHOICES = {"t2i": (6, 0.5), "i2t": (4, 0.0)}  # depth and weight of the cosine


def locate_project(root: Path) -> Project:
    """The folders of a project in `root`."""
    return Project(root / "data", root / "models", root / "embeddings", root / "results")


def build_search_project(root: Path, *, reranked: bool = True) -> Path:
    """Write all that comes before the stage `index` into `root`: of every set the twelve drawn images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        build_reranked(root)
    write_choices(root, CHOICES)
    write_calibrations(root)
    if not reranked:
        (root / "models/reranked/cross_encoder.json").unlink()
    corpus = pairs.read_pair_set(root / "data/clean/bank")
    images = corpus.images.set_column(
        corpus.images.schema.get_field_index("source"), "source", pa.array(["art"] * len(corpus.images))
    )
    pairs.write_pair_set(root / "data/clean/corpus", pairs.PairSet(images, corpus.texts, corpus.pairs))
    return root


def write_calibrations(root: Path) -> None:
    """Write into details.json of both models how sure a first answer is."""
    for name, curves in CURVES.items():
        place = root / "results" / name / "details.json"
        body = read_json(place) if place.is_file() else {}
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, body | {"calibration": dict.fromkeys(("t2i", "i2t"), curves)})


def build_index(root: Path, index: Index = INDEX, embed: Embed = EMBED) -> Path:
    """Write the index of the project in `root`, in one step for who reads it meanwhile, and return its folder."""
    out, made = root / "index", root / "index.new"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_index(locate_project(Path()), Path("index.new"), index, embed)
    shutil.rmtree(out, ignore_errors=True)
    return made.rename(out)


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest of an index."""
    body: dict[str, dict[str, Any]] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return body
