"""A model of another program's vectors, whole: embedded, measured, reported, compared, indexed and searched."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.support.given_vectors import DIM, build_given_project
from tests.support.report_inputs import write
from tests.support.retrieval import run
from tests.support.search_client import build_client, list_ids, search, wait_until_ready
from tests.support.search_project import INDEX, build_index
from tuwen.core.params import load_params
from tuwen.evaluation.compare import compare_ranks, find_regressions
from tuwen.evaluation.zero_shot import evaluate_zero_shot
from tuwen.model import adapter
from tuwen.model.adapter import read_given


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_given_project(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def measured(project: Path) -> Path:
    params = load_params(project / "params.yaml")
    for model in ("baseline", "finetuned"):
        run(project, model, named=model)
        embedded, folder = project / "embeddings" / model / "test", project / "models" / model
        out = project / "results" / model / "zero_shot.json"
        evaluate_zero_shot(folder, embedded, project / "data/clean/test", out, params.evaluate)
    return project


@pytest.fixture(scope="module")
def client(measured: Path) -> Iterator[TestClient]:
    build_index(measured, INDEX.model_copy(update={"sets": ["test", "bank"], "licences": []}))
    with build_client(measured, model=str(measured / "models/finetuned")) as client:
        wait_until_ready(client)
        yield client


def test_it_is_measured_reported_and_judged_by_the_gate(measured: Path) -> None:
    write(measured)
    assert "fine-tuned" in (measured / "results/report.md").read_text(encoding="utf-8")
    test = json.loads((measured / "results/finetuned/metrics.json").read_text())["test"]
    assert test["t2i_hit_at_5"] > 0.9
    base, head = (measured / "results" / model / "ranks.parquet" for model in ("baseline", "finetuned"))
    evaluate = load_params(measured / "params.yaml").evaluate
    assert not find_regressions(compare_ranks(base, head, evaluate), 2.0)


def test_the_vector_of_a_new_text_or_picture_asks_through_the_heads(client: TestClient, measured: Path) -> None:
    given = read_given(measured / "inputs/vectors")
    text = np.asarray(given.texts.vectors[given.texts.rows["name-03"]])
    found = search(client, text_vector=text.tolist(), k=24)
    assert found["of"] == "images"
    assert list_ids(found)[0].endswith("图03.png")
    heads = adapter.load_adapter(measured / "models/finetuned")
    moved = adapter.map_query(heads, "text", text)
    cosines = np.sort(np.load(measured / "index/images.npy") @ moved)[::-1]
    assert [answer["score"] for answer in found["answers"]] == pytest.approx(cosines[:24], abs=1e-5)
    assert search(client, text_vector=(5 * text).tolist(), k=24)["answers"] == found["answers"]

    picture = np.asarray(given.images.vectors[3])
    found = search(client, image_vector=picture.tolist(), of="texts", k=2)
    asked_by_id = search(client, image_id="图03.png", of="texts", k=2)
    assert list_ids(found) == list_ids(asked_by_id)
    assert found["probability"] == pytest.approx(asked_by_id["probability"], abs=1e-5)


def test_what_only_the_other_program_can_encode_is_refused_with_the_way_out(client: TestClient) -> None:
    for path, body in (
        ("/search", {"text": "一只猫"}),
        ("/search", {"image": "iVBORw0KGgo="}),
        ("/embed", {"texts": ["一只猫"]}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 422, answer.text
        assert "vectors of another program, and only that can encode" in answer.json()["error"]["message"]
        assert "text_vector or image_vector" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        ([1.0] * (DIM - 1), f"text_vector: {DIM} numbers are expected, as the index has, got {DIM - 1}"),
        ([0.0] * DIM, "text_vector: holds zeros alone"),
        (["1"] * DIM, "text_vector.0: input should be a valid number"),
        ([1e30] * DIM, "text_vector.0: input should be less than or equal to"),
    ],
)
def test_a_vector_that_points_nowhere_or_is_of_another_space_is_refused(
    vector: list[Any], words: str, client: TestClient
) -> None:
    answer = client.post("/search", json={"text_vector": vector})
    assert answer.status_code == 422
    assert words in answer.json()["error"]["message"]
