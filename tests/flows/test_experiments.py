"""`dvc exp run --queue` as docs/training.md has it: each runs in a folder that DVC deletes, and is in MLflow."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.gate import build, ran, run

SEEDS = {"11", "12"}


def test_queued_experiments_run_beside_the_checkout_and_are_in_its_mlflow(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(tmp_path / "repository", 0.3)
    shutil.copyfile(empty_store, folder / "mlflow.db")
    monkeypatch.delenv("TUWEN_TRACKING_URI")
    ran(folder)
    for seed in SEEDS:
        run(folder, "dvc", "exp", "run", "--quiet", "--queue", "--set-param", f"evaluate.seed={seed}")
    run(folder, "dvc", "exp", "run", "--quiet", "--run-all")
    assert len(run(folder, "dvc", "exp", "list", "--name-only").split()) == 2
    assert run(folder, "git", "status", "--porcelain", "--untracked-files=no") == ""
    assert ran(folder) == []  # the outs of the other stages came from the cache
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tuwen")
    runs = client.search_runs([experiment.experiment_id])
    assert {found.data.params["seed"] for found in runs} == SEEDS
    assert {found.info.status for found in runs} == {"FINISHED"}
