"""A run that is killed in every stage ends with the outs of one that never was."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import Whole, kill_group, make
from tests.support import smoke
from tests.support.smoke import mlflow_runs, outs, run

# Stage -> what it has written once it is in the middle of its work.
WRITTEN = {
    "ingest": "data/raw/labelled/shards/*.tar",
    "corpus@art": "data/raw/corpus/art/shards/*.tar",
    "validate": "data/clean/quarantine.csv",
    "augment": ".cache/augment/*/*.tar",
    "baseline": ".cache/train/baseline-*/state.pt",
    "finetune": ".cache/train/finetuned-*/state.pt",
    "refit": ".cache/train/final-*/state.pt",
    "rerank": ".cache/train/reranked-*/state.pt",
    "embed@finetuned-bank": ".cache/embed/*/*.npy",
    "evaluate@baseline": "results/baseline/*",
    "evaluate@finetuned": "results/finetuned/*",
    "evaluate@reranked": "results/reranked/*",
    "index": ".cache/embed/*/*.npy",  # the corpus's, which no stage before it embeds
    "predict": "results/result1.csv",
    "report": "results/report.*",
}
TRAININGS = ("baseline", "final", "finetuned", "reranked")
STAGE_SECONDS = 900  # for a stage and those above it to come so far
MOST_DELAY_SECONDS = 0.15  # half of what is left of the quickest stage at that moment
# Both at once, since neither may change a byte.
STRANGE = {"LC_ALL": "C", "TZ": "Pacific/Chatham", "TUWEN_CHECKPOINT_SECONDS": "0"}


def test_a_run_killed_in_every_stage_in_another_locale_has_the_same_outs(whole: Whole, tmp_path: Path) -> None:
    folder, chance = make(tmp_path / "project"), random.Random(6)
    for stage in WRITTEN:
        kill_in(folder, stage, chance.uniform(0, MOST_DELAY_SECONDS), alone=chance.random() < 0.5)
    run(folder, "dvc", "repro", **STRANGE)
    assert outs(folder) == outs(whole())
    assert {name.partition("@")[0] for name in outs(folder)} == {name.partition("@")[0] for name in WRITTEN}
    assert (folder / "runs.log").read_text().count("resumed after step") == len(TRAININGS)
    assert list((folder / ".cache/train").iterdir()) == []  # the checkpoints they resumed from are gone
    run(folder, sys.executable, "-m", "tuwen.cli", "track", "sync", **STRANGE)
    runs = [row for row in mlflow_runs(folder) if row[4]["tuwen.kind"] == "training"]
    assert [(out, status, metrics["epoch"]) for out, status, metrics, *_ in runs] == [
        (f"models/{name}", "FINISHED", 2) for name in TRAININGS
    ]


def kill_in(folder: Path, stage: str, delay_seconds: float, *, alone: bool) -> None:
    """Run `dvc repro STAGE` until `stage` is writing, then kill its process alone, or all processes at once."""
    with open(folder / "runs.log", "a+") as log:
        repro = subprocess.Popen(
            ["dvc", "repro", stage],
            cwd=folder,
            env=smoke.environment(**STRANGE),
            stdout=log,
            stderr=log,
            process_group=0,
        )
    try:
        process = wait_for_writing(folder, stage, psutil.Process(repro.pid))
        started = process.children(recursive=True)
        time.sleep(delay_seconds)  # the moment of the kill is what is drawn
        if alone:
            process.kill()
            assert repro.wait(240) != 0
        else:
            os.killpg(repro.pid, signal.SIGKILL)
            repro.wait(60)
    finally:
        kill_group(repro)
    assert stage not in outs(folder), f"{stage} had ended before the kill"
    assert psutil.wait_procs([process, *started], timeout=60)[1] == [], f"{stage} left processes"


def wait_for_writing(folder: Path, stage: str, repro: psutil.Process) -> psutil.Process:
    """Wait until the process of `stage` has written, and return that process."""
    name, _, _ = stage.partition("@")
    deadline = time.monotonic() + STAGE_SECONDS
    while time.monotonic() < deadline:
        processes = [child for child in repro.children(recursive=True) if is_stage(child, name)]
        if processes and any(path.stat().st_size for path in folder.glob(WRITTEN[stage])):
            return processes[0]
        if repro.status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.005)  # a stage does not report when its first file is there
    pytest.fail(f"{stage} was never in the middle of its work: {(folder / 'runs.log').read_text()}")


def is_stage(process: psutil.Process, name: str) -> bool:
    try:
        return f"stages.{name}" in process.cmdline() and Path(process.exe()).name.startswith("python")
    except psutil.Error:  # it is just ending
        return False
