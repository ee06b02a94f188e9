"""The tasks answered in the order of a re-ranker, by predict.rerank, with real models."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.reranker_world import build_reranked, score_all
from tuwen.data.formats import pairs
from tuwen.data.formats.json_file import write_json

FILES = {"t2i": "result1.csv", "i2t": "result2.csv"}
COLUMNS = {"t2i": ("text_id", "result_image_id"), "i2t": ("image_id", "result_text_id")}
CHOICES = {"t2i": (6, 0.5), "i2t": (4, 0.0)}  # depth and weight


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that comes before `predict`, with a re-ranker of which valid is sure in one direction alone."""
    root = tmp_path_factory.mktemp("ranked")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        build_reranked(root)
    chosen = {
        name: {"k": k, "weight": weight, "sure_on_valid": name == "t2i", "curve": []}
        for name, (k, weight) in CHOICES.items()
    }
    (root / "results/reranked").mkdir(parents=True)
    write_json(root / "results/reranked/details.json", {"reranking": chosen})
    return root


def answer_by(root: Path, direction: str, reordered: bool) -> dict[str, list[str]]:
    """Query -> its five answers, by a plain sort of each row of scores."""
    cosine, match = score_all(root, direction)
    tables = pairs.read_pair_set(root / "data/clean" / direction)
    ids = {"images": tables.images["image_id"].to_pylist(), "texts": tables.texts["text_id"].to_pylist()}
    asking, answering = ids["texts"], ids["images"]
    if direction == "i2t":
        cosine, match, asking, answering = cosine.T, match.T, answering, asking
    k, weight = CHOICES[direction]
    answers = {}
    for name, row, probability in zip(asking, cosine, match, strict=True):
        order = np.argsort(-row, kind="stable").tolist()
        score = probability + weight * row
        if reordered:
            order = [*sorted(order[:k], key=lambda item, score=score: -score[item]), *order[k:]]
        answers[name] = [answering[item] for item in order[:5]]
    return answers


def read_answers(root: Path, direction: str) -> dict[str, list[str]]:
    query, item = COLUMNS[direction]
    answers: dict[str, list[str]] = {}
    with open(root / "results" / FILES[direction], encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            answers.setdefault(row[query], []).append(row[item])
    return answers


@pytest.mark.parametrize(
    ("wanted", "reordered", "said"),
    [
        (True, {"t2i", "i2t"}, ""),
        ("auto", {"t2i"}, "predict.rerank: auto re-ranks t2i\n"),
    ],
)
def test_the_answers_stand_in_the_order_that_is_wanted(
    ranked: Path, run_stage: Any, write_params: Callable[..., Path], wanted: Any, reordered: set[str], said: str
) -> None:
    write_params(ranked, predict={"rerank": wanted})
    done = run_stage(ranked, "predict")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(said)
    for direction in FILES:
        expected = answer_by(ranked, direction, direction in reordered)
        assert read_answers(ranked, direction) == expected
        assert expected != answer_by(ranked, direction, direction not in reordered)


def test_a_re_ranker_that_is_wanted_and_not_there_is_refused_and_auto_goes_without(
    ranked: Path, tmp_path: Path, run_stage: Any, write_params: Callable[..., Path]
) -> None:

    root = shutil.copytree(ranked, tmp_path / "copy")
    shutil.rmtree(root / "models/reranked")
    for wanted, code in ((True, 1), ("auto", 0)):
        write_params(root, predict={"rerank": wanted})
        done = run_stage(root, "predict")
        assert done.returncode == code, done.stderr
        if code:
            assert "predict.rerank is true, but models/reranked holds no re-ranker" in done.stderr
    assert done.stdout == "predict.rerank: auto re-ranks nothing\n"
    (root / "models/reranked").mkdir()
    shutil.copytree(ranked / "models/reranked", root / "models/reranked", dirs_exist_ok=True)
    (root / "results/reranked/details.json").write_text(json.dumps({"reranking": None}))
    done = run_stage(root, "predict")
    assert done.returncode == 1
    assert "results/reranked/details.json: does not say how to re-rank" in done.stderr


def test_two_corrections_at_once_are_refused(
    ranked: Path, run_stage: Any, write_params: Callable[..., Path]
) -> None:
    write_params(ranked, predict={"rerank": "auto", "correction": "qbnorm"})
    done = run_stage(ranked, "predict")
    assert done.returncode == 1
    assert "predict: correction must be none where rerank is not false" in done.stderr
