"""A run that is killed in every stage ends with the outs of one that never was."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import smoke_world
from tests.faults.conftest import Whole, kill_group
from tests.smoke_world import outs, run

# Stage -> what it has written once it is in the middle of its work.
WRITTEN = {
    "ingest": "data/raw/labelled/shards/*.tar",
    "corpus@art": "data/raw/corpus/art/shards/*.tar",
    "validate": "data/clean/quarantine.csv",
    "augment": ".cache/augment/*/*.tar",
    "baseline": ".cache/train/baseline-*/state.pt",
    "finetune": ".cache/train/finetuned-*/state.pt",
    "refit": "models/final/*",
    "embed@finetuned-bank": ".cache/embed/*/*.npy",
    "evaluate@baseline": "results/baseline/*",
    "predict": "results/result1.csv",
    "report": "results/report.*",
}
STAGE_SECONDS = 240  # for a stage and those above it to come so far
MOST_DELAY_SECONDS = 0.15  # half of what is left of the quickest stage at that moment
# Both harms at once, for neither may change a byte.
STRANGE = {"LC_ALL": "C", "TZ": "Pacific/Chatham", "TUWEN_CHECKPOINT_SECONDS": "0"}


def test_a_run_killed_in_every_stage_in_a_strange_place_has_the_same_outs(whole: Whole, tmp_path: Path) -> None:
    folder, chance = smoke_world.make(tmp_path / "project"), random.Random(6)
    for stage in WRITTEN:
        kill_in(folder, stage, chance.uniform(0, MOST_DELAY_SECONDS), alone=chance.random() < 0.5)
    run(folder, "dvc", "repro", **STRANGE)
    assert outs(folder) == outs(whole())
    assert {name.partition("@")[0] for name in outs(folder)} == {name.partition("@")[0] for name in WRITTEN}
    assert (folder / "runs.log").read_text().count("resumed after step") == len(["baseline", "finetune"])
    assert list((folder / ".cache/train").iterdir()) == []  # what they went on from is gone
    run(folder, sys.executable, "-m", "tuwen.cli", "track", "sync", **STRANGE)
    assert trainings(folder) == [["baseline", "FINISHED", 2], ["finetuned", "FINISHED", 2]]


def kill_in(folder: Path, stage: str, delay_seconds: float, *, alone: bool) -> None:
    """`dvc repro STAGE` until `stage` is writing, then SIGKILL: for its process alone, or for all at once."""
    with open(folder / "runs.log", "a+") as log:
        repro = subprocess.Popen(
            ["dvc", "repro", stage],
            cwd=folder,
            env=smoke_world.environment(**STRANGE),
            stdout=log,
            stderr=log,
            process_group=0,
        )
    try:
        process = writing(folder, stage, psutil.Process(repro.pid))
        started = process.children(recursive=True)
        time.sleep(delay_seconds)
        if alone:
            process.kill()
            assert repro.wait(60) != 0
        else:
            os.killpg(repro.pid, signal.SIGKILL)
            repro.wait(10)
    finally:
        kill_group(repro)
    assert stage not in outs(folder), f"{stage} had ended before the kill"
    assert psutil.wait_procs([process, *started], timeout=10)[1] == [], f"{stage} left processes"


def writing(folder: Path, stage: str, repro: psutil.Process) -> psutil.Process:
    """Wait until the process of `stage` has written, and return that process."""
    name, _, _ = stage.partition("@")
    deadline = time.monotonic() + STAGE_SECONDS
    while time.monotonic() < deadline:
        found = [child for child in repro.children(recursive=True) if is_stage(child, name)]
        if found and any(path.stat().st_size for path in folder.glob(WRITTEN[stage])):
            return found[0]
        if repro.status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.005)
    pytest.fail(f"{stage} was never in the middle of its work: {(folder / 'runs.log').read_text()}")


def is_stage(process: psutil.Process, name: str) -> bool:
    try:
        return f"stages.{name}" in process.cmdline() and Path(process.exe()).name.startswith("python")
    except psutil.Error:  # it is just ending
        return False


def trainings(folder: Path) -> list[list[object]]:
    """Name, status and last epoch of the MLflow runs of trainings."""
    query = (
        "import json, mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); "
        "runs = mlflow.search_runs(experiment_names=['tuwen'], output_format='list', "
        "filter_string=\"tags.`tuwen.kind` = 'training'\"); "
        "rows = [[r.info.run_name, r.info.status, int(r.data.metrics['epoch'])] for r in runs]; "
        "print(json.dumps(sorted(rows)))"
    )
    rows: list[list[object]] = json.loads(run(folder, sys.executable, "-c", query).stdout.splitlines()[-1])
    return rows
