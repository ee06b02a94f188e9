"""The registry on a real store and a real server: what is registered, and that a registered model answers."""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.support import registry_project, reranker_world
from tests.support.checkout import ROOT
from tests.support.registry_project import SETS
from tuwen.core import params
from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.data.formats.images import decode_pixels, resize_to_square
from tuwen.data.formats.text import load_tokenizer
from tuwen.model import dual_encoder
from tuwen.retrieval.encode import embed_captions, embed_images
from tuwen.retrieval.lookup import find_answers
from tuwen.tracking import lineage, registry, runs

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # mlflow's, about sqlalchemy
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
CAPTION = "一个红色的圆形"
# Only the model's own requirements may be importable; the repository's package is out of reach where it runs.
CLEAN_PROCESS = """
import importlib.abc, json, sys
ABSENT = {"albumentations", "dvc", "great_expectations", "matplotlib", "prefect", "typer"}
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
rows = pd.DataFrame(json.loads(sys.argv[2]))
answers = model.predict(rows, params={"k": 3, "embeddings": True})
import tuwen
print(json.dumps({"tuwen": tuwen.__file__, "answers": answers.to_dict("records")}))
"""


def draw_image() -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(encoded, "PNG")
    return encoded.getvalue()


def make_rows() -> list[dict[str, str | None]]:
    return [
        {"text": CAPTION, "image": None},
        {"text": None, "image": base64.b64encode(draw_image()).decode()},
        {"text": "三角形、黄色、几何图形", "image": None},
    ]


def compute_answers(root: Path) -> list[dict[str, Any]]:
    """Return the answers due to `make_rows`, by a plain product over the model's own embeddings of the bank."""
    folder = root / "models/finetuned"
    encoder, tokenizer = dual_encoder.load_model(folder), load_tokenizer(folder / "vocab.txt")
    bank = pairs.read_pair_set(root / "data/clean/bank")
    ids = {"images": bank.images["image_id"].to_pylist(), "texts": bank.texts["text_id"].to_pylist()}
    answers = []
    for row in make_rows():
        if row["text"]:
            vector, side = embed_captions(encoder, tokenizer, [row["text"]], 1)[0], "images"
        else:
            square = resize_to_square(decode_pixels(draw_image()), 16)
            vector, side = embed_images(encoder, [square], 1)[0], "texts"
        cosines = np.load(root / f"embeddings/finetuned/bank/{side}.npy") @ vector
        best = np.argsort(-cosines, kind="stable")[:3]
        answers.append({"ids": [ids[side][n] for n in best], "scores": cosines[best], "embedding": vector})
    return answers


@pytest.fixture(params=["sqlite", "server"])
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project in the current directory, with a store in a file or behind a real server."""
    monkeypatch.chdir(tmp_path)
    registry_project.build(tmp_path)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("TUWEN_TRACKING_URI", store)
    if request.param == "sqlite":
        yield tmp_path
        return
    arguments = ("server", "--backend-store-uri", store, "--workers", "1")
    with registry_project.serving(*arguments, "--artifacts-destination", "kept", cwd=tmp_path) as address:
        monkeypatch.setenv("TUWEN_TRACKING_URI", address)
        yield tmp_path


def aliases() -> dict[str, str]:
    return {
        name: str(number)
        for name, number in MlflowClient(runs.get_address()).get_registered_model("tuwen").aliases.items()
    }


def test_a_registered_model_answers_in_a_clean_process_and_the_better_one_is_champion(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    evaluate = params.load_params().evaluate
    assert registry.register(Path("models/baseline"), "bank", evaluate)[:2] == ("1", True)
    better = registry.register(Path("models/finetuned"), "bank", evaluate)
    assert (better.version, better.is_champion) == ("2", True)
    assert "R@5 +" in better.why
    assert aliases() == {"champion": "2", "challenger": "2"}
    worse = registry.register(Path("models/baseline"), "bank", evaluate)
    assert (worse.version, worse.is_champion) == ("1", False)
    assert "version 2 remains the champion" in worse.why
    assert aliases() == {"champion": "2", "challenger": "1"}

    client = MlflowClient(runs.get_address())
    version = client.get_model_version_by_alias("tuwen", "champion")
    assert client.get_run(version.run_id).info.run_name == f"finetuned {version.run_id[:7]}"
    assert lineage.sync()["models/finetuned"] == version.run_id  # the same run, not another

    elsewhere = tmp_path_factory.mktemp("elsewhere")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {"MLFLOW_TRACKING_URI": runs.get_address(), "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-c", CLEAN_PROCESS, "models:/tuwen@champion", json.dumps(make_rows())],
        **{"cwd": elsewhere, "env": environment, "capture_output": True, "text": True, "timeout": 120},
    )
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout.splitlines()[-1])
    assert not Path(output["tuwen"]).is_relative_to(ROOT)
    assert Path(output["tuwen"]).parent.parent.name == "code"
    for answer, due in zip(output["answers"], compute_answers(project), strict=True):
        assert answer["ids"] == due["ids"]
        np.testing.assert_allclose(answer["scores"], due["scores"], atol=1e-5)
        np.testing.assert_allclose(answer["embedding"], due["embedding"], atol=1e-5)


@pytest.mark.parametrize("project", ["sqlite"], indirect=True)
def test_the_command_prints_what_became_of_the_model_and_nothing_else(project: Path) -> None:
    def call(**environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tuwen.cli", "track", "register"]
        variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=400)

    done = call()
    assert (done.stdout, done.stderr) == (
        "models:/tuwen/1 is challenger and champion: it is the first champion\n",
        "",
    )
    with socket.socket() as bound:  # bound, but it does not listen
        bound.bind(("127.0.0.1", 0))
        lost = call(TUWEN_TRACKING_URI=f"http://127.0.0.1:{bound.getsockname()[1]}")
    assert lost.returncode == 1
    assert lost.stderr.startswith("error: TUWEN_TRACKING_URI: http://127.0.0.1:")
    assert lost.stderr.endswith("then run `tuwen track register` again\n")
    assert lost.stderr.count("\n") == 1


@pytest.mark.parametrize("project", ["sqlite"], indirect=True)
def test_mlflow_serves_a_re_ranker_too_and_a_path_is_never_opened(project: Path) -> None:
    reranker_world.add_reranker(project)
    reranker_world.write_choices(project, {"t2i": (6, 0.0), "i2t": (6, 0.0)})
    registered = registry.register(Path("models/reranked"), "bank", params.load_params().evaluate)
    assert (registered.version, registered.is_champion) == ("1", True)
    secret = project / "secret.png"
    secret.write_bytes(draw_image())
    command = ("models", "serve", "-m", "models:/tuwen@champion", "--env-manager", "local")
    with registry_project.serving(*command, cwd=project, MLFLOW_TRACKING_URI=runs.get_address()) as address:
        answers = post(address, {"dataframe_records": make_rows(), "params": {"k": 3}})["predictions"]
        assert [answer["ids"] for answer in answers] == [due["ids"] for due in compute_answers(project)]
        assert all("embedding" not in answer for answer in answers)
        wanted = {"dataframe_records": make_rows(), "params": {"k": 3, "rerank": True}}
        reordered = [answer["ids"] for answer in post(address, wanted)["predictions"]]
        asked = [row["text"] or str(secret) for row in make_rows()]
        by_search = [find_answers(query, Path("models/reranked"), "bank", 3, rerank=True) for query in asked]
        assert reordered == [[one.id for one in found] for found in by_search]
        assert reordered != [answer["ids"] for answer in answers]
        (path,) = Path("runs/mlartifacts").rglob("serving_input_example.json")
        text_row, image_row = post(address, json.loads(path.read_text()))["predictions"]
        assert set(text_row["ids"]) <= set(
            pairs.read_pair_set(project / "data/clean/bank").images["image_id"].to_pylist()
        )
        assert set(image_row["ids"]) <= set(
            pairs.read_pair_set(project / "data/clean/bank").texts["text_id"].to_pylist()
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(address, {"dataframe_records": [{"text": None, "image": str(secret)}]})
        assert refused.value.code == 400
        assert "picture file in base64" in refused.value.read().decode()


def post(address: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.parametrize("project", ["sqlite"], indirect=True)
def test_what_cannot_be_registered_is_named_and_what_was_not_measured_is_no_champion(project: Path) -> None:
    evaluate = params.load_params().evaluate
    with pytest.raises(UserError, match=r"--gallery street: embeddings/finetuned/street is.*bank, test"):
        registry.register(Path("models/finetuned"), "street", evaluate)
    shutil.copytree("data/clean/bank", "data/clean/shop")
    shutil.copytree("embeddings/baseline/bank", "embeddings/finetuned/shop")
    with pytest.raises(UserError, match=r"embeddings/finetuned/shop.*made from another model"):
        registry.register(Path("models/finetuned"), "shop", evaluate)
    with pytest.raises(UserError, match=r"models/none: no manifest\.json"):
        registry.register(Path("models/none"), "bank", evaluate)
    (project / "models/finetuned/manifest.json").write_text('{"files": {}, "inputs": {}, "params": {}}')
    with pytest.raises(UserError, match="made from another model"):
        registry.register(Path("models/finetuned"), "bank", evaluate)
    shutil.rmtree("models/final")
    os.rename("models/baseline", "models/final")  # a refit: no embeddings of test and valid
    os.rename("embeddings/final", "embeddings/gone")
    os.rename("embeddings/baseline", "embeddings/final")
    for name in SETS:
        os.rename(f"embeddings/final/{name}", f"embeddings/gone/{name}")
    refit = registry.register(Path("models/final"), "bank", evaluate)
    assert (refit.is_champion, refit.why) == (False, "models/final was not measured on test and valid")
    assert aliases() == {"challenger": refit.version}
