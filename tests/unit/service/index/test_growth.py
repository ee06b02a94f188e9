"""How sure first answers are in an index: against a plain search over its vectors, and told of test's queries."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.search_project import CURVES, INDEX, build_index, read_manifest
from tuwen.data.formats import pairs
from tuwen.retrieval.calibration import RELIABILITY, Calibration, FirstAnswers, fit_growth, judge_calibration

CURVE = Calibration(**CURVES["reranked"]["cosine"])


def read_side(root: Path, name: str, side: str) -> tuple[Any, list[set[str]]]:
    """Vectors of a side of a set, and the captions of each of its items."""
    tables = pairs.read_pair_set(root / "data/clean" / name)
    captions = tables.texts["caption"].to_pylist()
    own: list[set[str]] = [set() for _ in range(len(getattr(tables, side)))]
    for image, text in zip(*pairs.find_true_rows(tables), strict=True):
        own[image if side == "images" else text].add(captions[text])
    return np.load(root / f"embeddings/finetuned/{name}/{side}.npy"), own


def search_plainly(root: Path, asking: str, searched: list[str], sides: tuple[str, str]) -> FirstAnswers:
    queries, wanted = read_side(root, asking, sides[0])
    found = [read_side(root, name, sides[1]) for name in searched]
    score_QN = queries @ np.concatenate([vectors for vectors, _ in found]).T
    captions = [one for _, own in found for one in own]
    right = [bool(own & captions[first]) for own, first in zip(wanted, score_QN.argmax(axis=1), strict=True)]
    return FirstAnswers(score_QN.max(axis=1).astype(np.float64), np.array(right), len(captions))


@pytest.mark.parametrize(("way", "sides"), [("t2i", ("texts", "images")), ("i2t", ("images", "texts"))])
def test_the_odds_fall_as_its_own_items_tell_and_what_is_said_is_judged_by_test(
    built: Path, tmp_path: Path, way: str, sides: tuple[str, str]
) -> None:
    root = Path(shutil.copytree(built, tmp_path / "project", ignore=shutil.ignore_patterns("index")))
    folder = build_index(root, INDEX.model_copy(update={"sets": ["test", "bank"]}))
    asked = search_plainly(root, "valid", ["test", "bank", "valid"], sides)
    fitted = len(read_side(root, "valid", sides[1])[0])
    growth = fit_growth(CURVE, fitted, asked)
    assert read_manifest(folder)["params"]["growth"][way] == {
        "gallery": fitted,
        "exponent": pytest.approx(growth.exponent, abs=1e-4),
    }
    served = json.loads((folder / RELIABILITY).read_text())[way]
    due = judge_calibration(CURVE, growth, search_plainly(root, "test", ["test", "bank"], sides))
    assert served["right"] == due["right"]
    assert served["brier"] == pytest.approx(due["brier"], abs=1e-4)


def test_without_test_in_it_nothing_is_told(built: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(built, tmp_path / "project", ignore=shutil.ignore_patterns("index")))
    folder = build_index(root, INDEX.model_copy(update={"sets": ["bank"]}))
    assert json.loads((folder / RELIABILITY).read_text()) == {}


def test_among_items_that_are_never_right_it_is_less_sure(built: Path, tmp_path: Path) -> None:
    """The same pictures once with captions that nobody asks for: the first answers are then wrong."""
    root = Path(shutil.copytree(built, tmp_path / "project", ignore=shutil.ignore_patterns("index")))
    only = INDEX.model_copy(update={"sets": ["corpus"]})
    alike = read_manifest(build_index(root, only))["params"]["growth"]
    corpus = pairs.read_pair_set(root / "data/clean/corpus")
    other = [f"无关的第{row}句" for row in range(len(corpus.texts))]
    texts = corpus.texts.set_column(corpus.texts.schema.get_field_index("caption"), "caption", [other])
    pairs.write_pair_set(root / "data/clean/corpus", pairs.PairSet(corpus.images, texts, corpus.pairs))
    foreign = read_manifest(build_index(root, only))["params"]["growth"]
    assert foreign["t2i"]["exponent"] < alike["t2i"]["exponent"]
