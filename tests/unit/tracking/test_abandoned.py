"""Killed work that nobody took up ends as FAILED at the next sync; what still runs, here or elsewhere, goes on."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from tests.support.checkout import ROOT
from tests.support.tracking import KEPT, all_runs
from tuwen.tracking import lineage, runs
from tuwen.tracking.abandoned import PROCESS_TAG, SIGN_OF_LIFE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlflow's, about sqlalchemy

TRAINING = """
import sys
from pathlib import Path
from tuwen.tracking import runs
with runs.track_run(Path("models/baseline"), {}, {}, Path(sys.argv[1])) as run:
    print("running", flush=True)
    sys.stdin.read()
"""


def start(kept: Path) -> "subprocess.Popen[str]":
    """A process of its own with a run; it ends when its input does."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {TRAINING}", str(kept)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


def test_sync_fails_the_run_of_a_killed_process_and_leaves_that_of_a_living_one(project: Path) -> None:
    living, killed = start(Path("living")), start(KEPT)
    try:
        killed.kill()
        lineage.sync()  # before its parent has asked how it ended, it is a zombie
        dead = KEPT.read_text()
        assert {run.info.run_id: run.info.status for run in all_runs(project)} == {
            dead: "FAILED",
            Path("living").read_text(): "RUNNING",
        }
    finally:
        for process in (living, killed):
            process.communicate(timeout=300)
    lineage.sync()
    assert sorted(run.info.status for run in all_runs(project)) == ["FAILED", "FINISHED"]
    with runs.track_run(Path("models/baseline"), {}, {}, KEPT) as run:
        assert run.id == dead  # it is taken up after all
    assert {run.info.status for run in all_runs(project)} == {"FINISHED"}


def test_a_run_of_another_machine_is_dead_once_it_is_silent(project: Path) -> None:
    client, experiment = runs.connect()
    now_ms = int(time.time() * 1000)
    hour_ms = 3_600_000
    tags = {PROCESS_TAG: "11111111-2222-3333-4444-555555555555 pid:[4026531836] 1 5"}
    silent = client.create_run(experiment, start_time=now_ms - 2 * hour_ms, tags=tags).info.run_id
    alive = client.create_run(experiment, start_time=now_ms - 2 * hour_ms, tags=tags).info.run_id
    begun = client.create_run(experiment, tags=tags).info.run_id
    older = client.create_run(experiment, start_time=now_ms - 2 * hour_ms).info.run_id  # by a version without tag
    for run_id, then_ms in ((silent, now_ms - hour_ms), (alive, now_ms)):
        client.log_batch(run_id, [Metric(SIGN_OF_LIFE, 50.0, then_ms, 0)])
    lineage.sync()
    status = {run.info.run_id: run.info.status for run in all_runs(project)}
    assert status == {silent: "FAILED", alive: "RUNNING", begun: "RUNNING", older: "FAILED"}
    assert MlflowClient(runs.get_address()).get_run(silent).info.end_time == now_ms - hour_ms
