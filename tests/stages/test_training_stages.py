"""Training stages as processes: several, stopped, killed, on a full log disk; they end as the undisturbed one."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
import torch

from stages import finetune
from tests.support.checkout import ROOT
from tests.support.training import settings, write_baseline
from tuwen.core.params import Params
from tuwen.model.dual_encoder import load_model
from tuwen.tracking import runs
from tuwen.training import recipes

# The stage, with a signal to itself at the start of a step: the checkpoint holds the one before
SIGNALLED = """
import os, runpy, sys
from tuwen.training import objective
real, left, number = objective.step, int(sys.argv[1]), int(sys.argv[2])

def step(*arguments):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), number)
    return real(*arguments)

objective.step = step
runpy.run_module("stages.finetune", run_name="__main__")
"""


def read_params(**fit: object) -> Params:
    still = {"dim": 32, "image": {"patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.0}}
    still |= {"text": {"width": 64, "layers": 1, "dropout": 0.1}}
    params = settings(augment={"views": 2, "splits": ["train", "valid", "test"]}, model=still)
    tuned = params.finetune.fit.model_copy(update={"epochs": 3, "muon_lr": None, "ema": 0.9} | fit)
    return params.model_copy(update={"finetune": params.finetune.model_copy(update={"fit": tuned})})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project up to the baseline, and the fine-tuned model of an undisturbed training, models/whole."""
    root = tmp_path_factory.mktemp("project")
    params = read_params()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_baseline(params)
        folders = [Path("data/clean"), Path("data/augmented"), Path("models/baseline")]
        recipes.make_finetuned(*folders, Path("models/whole"), params, Path(".cache/f"), lambda *_: None)
    return root


@pytest.fixture
def root(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Path) -> Path:
    """A copy of it for one test, which runs in it, with its params."""
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    write_params(read_params())
    return tmp_path


def write_params(params: Params) -> None:
    Path("params.yaml").write_text(json.dumps(params.model_dump(by_alias=True), ensure_ascii=False), "utf-8")


def make_environment(variables: Mapping[str, str]) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables


@contextlib.contextmanager
def start(*arguments: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a process whose lines are read as they come; kill it and all below it after ten minutes."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [sys.executable, "-u", *arguments]
    with subprocess.Popen(command, env=make_environment(variables), **streams) as process:
        guard = threading.Timer(600, kill, (process.pid,))
        guard.start()
        try:
            yield process
            process.wait()
        finally:
            guard.cancel()
            kill(process.pid)


def kill(pid: int) -> None:
    """Kill a process and all below it: torchrun gives each of its processes a session of its own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def run(*arguments: str, log: str | None = None, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = make_environment(variables)
    with open(log or os.devnull, "w") as written:
        streams = {"stdout": written, "stderr": written} if log else {"capture_output": True}
        return subprocess.run([sys.executable, *arguments], env=environment, text=True, timeout=600, **streams)


def read_state() -> Mapping[str, object]:
    (path,) = Path(".cache/train").glob("finetuned-*/state.pt")
    state: Mapping[str, object] = torch.load(path, weights_only=True)
    return state


def test_stopped_then_killed_on_a_full_log_disk_it_ends_as_the_unbroken_training(root: Path) -> None:
    stopped = run("-c", SIGNALLED, "6", str(int(signal.SIGTERM)))
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert "SIGTERM: step 6 is kept in .cache/train/finetuned-" in stopped.stdout
    assert read_state()["done"] == 6  # in the second epoch
    client, experiment = runs.connect()
    (killed_run,) = client.search_runs([experiment])
    assert killed_run.info.status == "KILLED"

    killed = run("-c", SIGNALLED, "4", str(int(signal.SIGKILL)), log="/dev/full", TUWEN_CHECKPOINT_SECONDS="0")
    assert killed.returncode == -signal.SIGKILL
    assert read_state()["done"] == 9  # in the third: three steps after the sixth, and not the one it was killed in
    assert not Path("models/finetuned/training.json").exists()

    finetune.main()
    for name in ("model.safetensors", "training.json", "manifest.json"):
        assert Path("models/finetuned", name).read_bytes() == Path("models/whole", name).read_bytes(), name
    assert not list(Path(".cache/train").iterdir())
    (resumed,) = client.search_runs([experiment])
    assert (resumed.info.run_id, resumed.info.status) == (killed_run.info.run_id, "FINISHED")
    history = client.get_metric_history(resumed.info.run_id, "loss")
    assert [point.step for point in history] == [1, 2, 3]
    assert client.get_metric_history(resumed.info.run_id, "pairs_per_second")


def test_a_full_log_disk_and_no_mlflow_leave_the_outs_as_they_are(root: Path) -> None:
    done = run("-m", "stages.finetune", log="/dev/full", TUWEN_TRACKING_URI="sqlite:////dev/full/mlflow.db")
    assert done.returncode == 0
    for name in ("model.safetensors", "training.json", "manifest.json"):
        assert Path("models/finetuned", name).read_bytes() == Path("models/whole", name).read_bytes(), name


def test_two_processes_see_the_batches_of_one_and_the_first_writes(root: Path) -> None:
    path = Path("models/baseline/config.json")
    path.write_text(path.read_text().replace('"dropout": 0.1', '"dropout": 0.0'))  # each process draws its own
    params = read_params(ema=None)
    alone = train_alone(params)
    write_params(params)
    done = run("-m", "stages.finetune", TUWEN_GPUS="2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 3/3") == 1
    together = json.loads(Path("models/finetuned/training.json").read_text())
    assert together["pairs"] == alone["pairs"]
    for one, two in zip(alone["epochs"], together["epochs"], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-3)
    one, two = (load_model(Path("models", name)).state_dict() for name in ("alone", "finetuned"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-3, rtol=0)
    client, experiment = runs.connect()
    assert [found.info.status for found in client.search_runs([experiment])] == ["FINISHED"]


def test_sigterm_to_two_processes_keeps_the_step_and_the_next_run_ends_as_the_unbroken_one(root: Path) -> None:
    write_params(read_params(epochs=40))
    assert run("-m", "stages.finetune", TUWEN_GPUS="2").returncode == 0
    shutil.move("models/finetuned", "models/unbroken")
    client, experiment = runs.connect()
    (first,) = client.search_runs([experiment])

    with start("-m", "stages.finetune", TUWEN_GPUS="2") as stopped:
        assert stopped.stdout is not None
        seen = next((line for line in stopped.stdout if "epoch 2/40" in line), "")
        stopped.send_signal(signal.SIGTERM)  # torchrun hands it to its processes
        rest = stopped.stdout.read()
    assert seen, rest
    assert stopped.returncode != 0
    done = read_state()["done"]
    assert f"SIGTERM: step {done} is kept in .cache/train/finetuned-" in rest
    assert not Path("models/finetuned/training.json").exists()
    (killed,) = (one for one in client.search_runs([experiment]) if one.info.run_id != first.info.run_id)
    assert killed.info.status == "KILLED"

    again = run("-m", "stages.finetune", TUWEN_GPUS="2")
    assert again.returncode == 0, again.stderr
    assert f"resumed after step {done} " in again.stdout
    for name in ("model.safetensors", "training.json"):
        assert Path("models/finetuned", name).read_bytes() == Path("models/unbroken", name).read_bytes(), name
    assert client.get_run(killed.info.run_id).info.status == "FINISHED"


def train_alone(params: Params) -> dict:
    folders = [Path("data/clean"), Path("data/augmented"), Path("models/baseline"), Path("models/alone")]
    recipes.make_finetuned(*folders, params, Path(".cache/a"), lambda *_: None)
    training: dict = json.loads(Path("models/alone/training.json").read_text())
    return training
