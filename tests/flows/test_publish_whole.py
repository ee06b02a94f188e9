"""The flow `publish` on a small DVC project, a registry and a service, all real: taken, refused, set back."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prefect.states import State

from flows.publish import publish
from tests.support import registry_project
from tests.support.checkout import ROOT
from tests.support.search_process import SearchService, serving_searches
from tests.support.search_project import write_calibrations
from tuwen.data.formats import manifest
from tuwen.tracking import published

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
TOKEN = "geheim, und lang genug"
# A training that takes the folders named in chosen.txt, and the pipeline's own stage `index`.
STAGES = """\
stages:
  model:
    cmd: >-
      for top in models embeddings; do rm -rf $top/finetuned && cp -r "$(cat chosen.txt)/$top" $top/finetuned; done
    deps: [chosen.txt]
    outs: [models/finetuned, embeddings/finetuned]
  index:
    cmd: python -m stages.index
    params: [embed, index]
    deps: [models/finetuned, embeddings/finetuned, data/clean/bank]
    outs: [index]
"""


@pytest.fixture
def project(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that is up to date, with the baseline for its model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUWEN_SEARCH_TOKEN", TOKEN)
    monkeypatch.setenv("TUWEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    registry_project.build(tmp_path)
    write_calibrations(tmp_path)
    for model, name in (("baseline", "first"), ("finetuned", "better")):
        for top in ("models", "embeddings"):
            shutil.copytree(tmp_path / top / model, tmp_path / name / top)
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("sets: [test, bank, corpus]", "sets: [bank]"), encoding="utf-8")
    Path("dvc.yaml").write_text(STAGES)
    Path(".dvc").mkdir()
    config = (ROOT / ".dvc/config").read_text()
    Path(".dvc/config").write_text(config.replace("[core]", "[core]\n    no_scm = true"))
    train("first")
    dvc("repro", "index")
    return tmp_path


def dvc(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words, "--quiet"], check=True)


def train(name: str) -> None:
    """Train by DVC; the index is left as it is."""
    Path("chosen.txt").write_text(name)
    dvc("repro", "model")


def spoil_vectors() -> None:
    """Lay beside `better` the same model, with vectors of the bank that it does not give."""
    shutil.copytree("better", "spoilt")
    folder = Path("spoilt/embeddings/bank")
    np.save(folder / "texts.npy", -np.load(folder / "texts.npy"))
    inputs = {"model": Path("spoilt/models"), "set": Path("data/clean/bank")}
    manifest.write_manifest(folder, inputs, {})


def run(service: str) -> State[Any]:
    return publish("sample", service, return_state=True)


def describe(service: SearchService) -> tuple[str, str]:
    """Return the version that answers, and the digest of its index."""
    about = httpx.get(f"{service.address}/about", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    return about["model"]["version"], about["index"]["digest"]


def test_register_index_and_swap_go_together_or_not_at_all(server: None, project: Path) -> None:
    first = manifest.hash_path(Path("index"))
    refused = run("http://127.0.0.1:9")
    assert refused.is_failed()
    assert "nothing answers at http://127.0.0.1:9" in str(refused.message)
    assert published.get_champion() is None

    published.set_champion("1")
    settings = {"model": "models:/tuwen@champion", "poll_seconds": 0}
    with serving_searches(project, **settings) as service:
        assert describe(service) == ("1", first)

        Path("chosen.txt").write_text("better")
        stale = run(service.address)
        assert stale.is_failed()
        assert "publishing never trains; run the pipeline first:\nmodel: changed deps" in str(stale.message)

        spoil_vectors()
        train("spoilt")
        refused = run(service.address)
        assert refused.is_failed()
        assert "another vector than the index has" in str(refused.message)
        assert published.get_champion() == "1"
        assert manifest.hash_path(Path("index")) == first  # and so a service that starts now finds its index
        assert describe(service) == ("1", first)

        train("better")
        taken = run(service.address)
        assert taken.is_completed(), taken.message
        assert str(taken.message).startswith("version 3 is in service: R@5 +")
        assert published.get_champion() == "3"
        second = manifest.hash_path(Path("index"))
        assert manifest.read_inputs(Path("index"))["model"] == manifest.hash_path(Path("better/models"))
        assert describe(service) == ("3", second)
        kept = {path.name for path in (project / "cache/search").iterdir()}
        assert kept == {manifest.hash_path(Path(name, "models")) for name in ("first", "better")}
    assert subprocess.run(["dvc", "status", "--json"], capture_output=True, check=True).stdout.strip() == b"{}"
