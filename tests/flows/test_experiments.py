"""DVC's queue as `make sweep` fills it: each experiment in a folder that DVC deletes, and all in MLflow."""

import re
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.checkout import ROOT
from tests.support.gate import build, ran, run

SEEDS = ["11", "12"]


def read_sweep() -> list[str]:
    """The commands by which `make sweep` fills and runs the queue, as a shell takes them."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return [command.replace("$$", "$") for command in re.findall(r"python -m dvc exp [^;\n]+", makefile)]


def test_a_sweep_runs_beside_the_checkout_and_is_in_its_mlflow(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(tmp_path / "repository", 0.3)
    shutil.copyfile(empty_store, folder / "mlflow.db")
    monkeypatch.delenv("TUWEN_TRACKING_URI")
    ran(folder)
    monkeypatch.setenv("SWEEP", f"evaluate.seed={','.join(SEEDS)}")
    fill, work = read_sweep()
    run(folder, "bash", "-euc", fill)
    run(folder, "bash", "-euc", work)
    assert len(run(folder, "dvc", "exp", "list", "--name-only").split()) == 2
    assert run(folder, "git", "status", "--porcelain", "--untracked-files=no") == ""
    assert ran(folder) == []  # the outs of the other stages came from the cache
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tuwen")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(found.data.params["seed"] for found in runs) == SEEDS
    assert {found.info.status for found in runs} == {"FINISHED"}
