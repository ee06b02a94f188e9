"""Experiments beside the checkout: as `make sweep` runs them, and from DVC's queue; all are in its MLflow."""

import fcntl
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from json import JSONDecodeError
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from kombu import Connection
from kombu.transport import filesystem
from mlflow import MlflowClient

from flows.experiments import PatientChannel
from tests.support.checkout import ROOT
from tests.support.gate import build, ran, run

SEEDS = ["11", "12"]
PAYLOAD = {"body": "一只橘猫"}
SECONDS = 60


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build(tmp_path_factory.mktemp("experiments") / "repository", 0.3)
    run(folder, "git", "config", "user.name", "test")  # for an experiment DVC copies git's own file, as ASCII
    ran(folder)
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which all is up to date, with an MLflow store of its own."""
    folder = Path(shutil.copytree(built, tmp_path / "repository"))
    shutil.copyfile(empty_store, folder / "mlflow.db")
    monkeypatch.delenv("TUWEN_TRACKING_URI")
    return folder


def check_experiments(folder: Path) -> None:
    """Each seed has an experiment and a run in MLflow, and the checkout is as it was."""
    assert len(run(folder, "dvc", "exp", "list", "--name-only").split()) == len(SEEDS)
    assert run(folder, "git", "status", "--porcelain", "--untracked-files=no") == ""
    assert ran(folder) == []  # the outs of the other stages came from the cache
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tuwen")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(found.data.params["seed"] for found in runs) == SEEDS
    assert {found.info.status for found in runs} == {"FINISHED"}


def read_sweep() -> str:
    """The loop of `make sweep` over the values, as a shell takes it."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    loop = re.search(r"IFS=,; for value in .+?; done$", makefile, flags=re.DOTALL | re.MULTILINE)
    assert loop, "Makefile: sweep"
    return loop[0].replace("$$", "$")


def test_a_sweep_runs_beside_the_checkout_and_is_in_its_mlflow(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEP", f"evaluate.seed={','.join(SEEDS)}")
    run(folder, "bash", "-euc", read_sweep())
    check_experiments(folder)


def test_experiments_of_the_queue_run_beside_the_checkout_and_are_in_its_mlflow(folder: Path) -> None:
    for seed in SEEDS:
        run(folder, "dvc", "exp", "run", "--queue", "--set-param", f"evaluate.seed={seed}")
    run(folder, sys.executable, "-m", "flows.experiments")
    assert run(folder, "dvc", "queue", "status").count("Success") == len(SEEDS)
    check_experiments(folder)


class SlowWriter:
    """A writer that has opened its file and goes on when `go_on` is set."""

    def __init__(self) -> None:
        self.has_opened, self.go_on = threading.Event(), threading.Event()

    def lock(self, file: Any, flags: int) -> None:
        self.has_opened.set()
        assert self.go_on.wait(SECONDS)
        fcntl.flock(file.fileno(), flags)


@pytest.fixture
def channel(tmp_path: Path) -> Any:
    folders = {"control_folder": "control", "data_folder_in": "in", "data_folder_out": "in"}
    options: dict[str, Any] = {key: str(tmp_path / name) for key, name in folders.items()}
    options |= {"processed_folder": str(tmp_path / "processed"), "store_processed": True}
    for name in ("in", "processed"):
        (tmp_path / name).mkdir()
    return Connection("filesystem://", transport_options=options).channel()


@pytest.fixture
def writer(channel: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowWriter]:
    """A message is under way: its file is there, and empty."""
    writer = SlowWriter()
    monkeypatch.setattr(filesystem, "lock", writer.lock)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(channel._put, "celery", PAYLOAD)
        assert writer.has_opened.wait(SECONDS)
        yield writer
        writer.go_on.set()


def test_a_message_is_read_when_it_is_whole(channel: Any, writer: SlowWriter) -> None:
    channel.__class__ = PatientChannel
    with pytest.raises(Empty):
        channel._get("celery")
    writer.go_on.set()
    while True:  # until the other thread has written
        try:
            assert channel._get("celery") == PAYLOAD
            break
        except Empty:
            continue


def test_kombus_own_reader_ends_there(channel: Any, writer: SlowWriter) -> None:
    """Where this fails, kombu is mended, and DVC's own worker will do."""
    with pytest.raises(JSONDecodeError):
        channel._get("celery")
