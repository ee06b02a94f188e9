"""The tasks answered in the order of a re-ranker, by predict.rerank, with real models."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tests.support.reranker_world import build_reranked, move_towers, score_all, write_choices
from tuwen.core.errors import UserError
from tuwen.core.params import Predict
from tuwen.data.formats import pairs
from tuwen.data.formats.json_file import write_json
from tuwen.prediction.predict import predict
from tuwen.prediction.reranking import Reordering, choose_reordering

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
    write_choices(root, CHOICES, sure=["t2i"])
    return root


def score_answers(root: Path, direction: str, reordered: bool) -> dict[str, dict[str, float]]:
    """Query -> what each item is worth: its cosine, and 10 more than the whole score for those that are read."""
    cosine, match = score_all(root, direction)
    tables = pairs.read_pair_set(root / "data/clean" / direction)
    ids = {"images": tables.images["image_id"].to_pylist(), "texts": tables.texts["text_id"].to_pylist()}
    asking, answering = ids["texts"], ids["images"]
    if direction == "i2t":
        cosine, match, asking, answering = cosine.T, match.T, answering, asking
    k, weight = CHOICES[direction]
    scored = {}
    for name, row, probability in zip(asking, cosine, match, strict=True):
        order = np.argsort(-row, kind="stable").tolist()
        scored[name] = {answering[item]: float(row[item]) for item in order}
        for item in order[:k] if reordered else ():
            scored[name][answering[item]] = 10 + float(probability[item] + weight * row[item])
    return scored


def answer_by(root: Path, direction: str, reordered: bool) -> dict[str, list[str]]:
    """Query -> its five answers, by a plain sort of each row of scores."""
    scored = score_answers(root, direction, reordered)
    return {
        name: sorted(values, key=lambda item, values=values: -values[item])[:5] for name, values in scored.items()
    }


def read_answers(root: Path, direction: str) -> dict[str, list[str]]:
    query, item = COLUMNS[direction]
    answers: dict[str, list[str]] = {}
    with open(root / "results" / FILES[direction], encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            answers.setdefault(row[query], []).append(row[item])
    return answers


def predict_by(root: Path, reordering: Reordering | None) -> None:
    folders = root / "embeddings/final", root / "data/clean", root / "results"
    predict(*folders, 5, model=root / "models/final", reordering=reordering)


@pytest.mark.parametrize(("wanted", "reordered"), [(True, {"t2i", "i2t"}), ("auto", {"t2i"})])
def test_the_answers_stand_in_the_order_that_is_wanted(
    ranked: Path, monkeypatch: pytest.MonkeyPatch, wanted: Any, reordered: set[str]
) -> None:
    monkeypatch.chdir(ranked)
    reordering = choose_reordering(wanted, Path("models/reranked"), Path("results/reranked"))
    assert reordering
    assert set(reordering.choices) == reordered
    predict_by(ranked, reordering)
    for direction in FILES:
        expected = answer_by(ranked, direction, direction in reordered)
        assert read_answers(ranked, direction) == expected
        assert expected != answer_by(ranked, direction, direction not in reordered)
    assert not list(Path(".cache/rerank").iterdir())  # the tokens are gone


def test_trained_towers_answer_from_their_own_vectors(
    ranked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ranked, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    move_towers(tmp_path)
    predict_by(tmp_path, choose_reordering(True, Path("models/reranked"), Path("results/reranked")))
    for direction in FILES:
        answers, values = read_answers(tmp_path, direction), score_answers(tmp_path, direction, True)
        for query, best in answer_by(tmp_path, direction, True).items():
            own, due = ([values[query][item] for item in items] for items in (answers[query], best))
            assert own == pytest.approx(due, abs=2e-3)  # tokens of half precision: what is as good may be swapped
        assert answers != answer_by(ranked, direction, True)


def test_the_stage_says_what_auto_came_to_and_writes_the_same_bytes(
    ranked: Path, monkeypatch: pytest.MonkeyPatch, run_stage: Any, write_params: Callable[..., Path]
) -> None:
    monkeypatch.chdir(ranked)
    predict_by(ranked, choose_reordering("auto", Path("models/reranked"), Path("results/reranked")))
    before = {name: (ranked / "results" / name).read_bytes() for name in FILES.values()}
    write_params(ranked, predict={"rerank": "auto"})
    done = run_stage(ranked, "predict")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("predict.rerank: auto re-ranks t2i\n")
    assert {name: (ranked / "results" / name).read_bytes() for name in FILES.values()} == before


def test_a_re_ranker_that_is_wanted_and_not_there_is_refused_and_auto_goes_without(
    ranked: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"predict\.rerank is true, but .*none holds no re-ranker"):
        choose_reordering(True, tmp_path / "none", tmp_path)
    assert choose_reordering("auto", tmp_path / "none", tmp_path) is None
    assert choose_reordering(False, ranked / "models/reranked", ranked / "results/reranked") is None
    write_json(tmp_path / "details.json", {"reranking": None})
    with pytest.raises(UserError, match=r"details\.json: does not say how to re-rank"):
        choose_reordering("auto", ranked / "models/reranked", tmp_path)


def test_two_corrections_at_once_are_refused() -> None:
    with pytest.raises(ValidationError, match="correction must be none where rerank is not false"):
        Predict.model_validate({"k": 5, "correction": "qbnorm", "rerank": "auto"})
