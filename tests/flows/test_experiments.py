"""Experiments as `make sweep` runs them: each in a folder that DVC deletes, and all in MLflow."""

import re
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.checkout import ROOT
from tests.support.gate import build, ran, run

SEEDS = ["11", "12"]


def read_sweep() -> str:
    """The loop of `make sweep` over the values, as a shell takes it."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    loop = re.search(r"IFS=,; for value in .+?; done$", makefile, flags=re.DOTALL | re.MULTILINE)
    assert loop, "Makefile: sweep"
    return loop[0].replace("$$", "$")


def test_a_sweep_runs_beside_the_checkout_and_is_in_its_mlflow(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(tmp_path / "repository", 0.3)
    shutil.copyfile(empty_store, folder / "mlflow.db")
    monkeypatch.delenv("TUWEN_TRACKING_URI")
    ran(folder)
    run(folder, "git", "config", "user.name", "test")  # for an experiment DVC copies git's own file, as ASCII
    monkeypatch.setenv("SWEEP", f"evaluate.seed={','.join(SEEDS)}")
    run(folder, "bash", "-euc", read_sweep())
    assert len(run(folder, "dvc", "exp", "list", "--name-only").split()) == 2
    assert run(folder, "git", "status", "--porcelain", "--untracked-files=no") == ""
    assert ran(folder) == []  # the outs of the other stages came from the cache
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tuwen")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(found.data.params["seed"] for found in runs) == SEEDS
    assert {found.info.status for found in runs} == {"FINISHED"}
