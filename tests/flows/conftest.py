"""One Prefect server for all tests of flows, and repositories to run them in."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from tests.support.checkout import ROOT
from tests.support.flows import END_SECONDS, make_repository

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def server() -> Iterator[None]:
    """One Prefect server for all tests."""
    with prefect_test_harness(server_startup_timeout=400):
        yield


@pytest.fixture
def project(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository in which nothing has run; the test's current directory."""
    folder = make_repository(tmp_path / "repository")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def repository_up_to_date(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_repository(tmp_path_factory.mktemp("finished") / "repository")
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=folder, check=True)
    (folder / "ran.txt").unlink()
    return folder


@pytest.fixture
def finished(repository_up_to_date: Path, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository in which all is up to date; the test's current directory."""
    folder = tmp_path / "repository"
    shutil.copytree(repository_up_to_date, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `python -m COMMAND`, on the tests' server unless `environment` names another."""
    started = []

    def start_one(*command: str, cwd: Path = Path(), **environment: str) -> subprocess.Popen[str]:
        address = {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=cwd,
                env=os.environ | address | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start_one
    for process in started:
        if process.poll() is None:  # a worker, or the test failed before its end
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process as a person does who waits a while and asks again: Prefect's worker takes that for a kill.

    What it waits for is a server whose SQLite is locked by others.
    """
    process.terminate()
    try:
        process.communicate(timeout=END_SECONDS)  # reads: a full pipe would hold what writes its last lines
    except subprocess.TimeoutExpired:
        process.terminate()
        process.communicate(timeout=END_SECONDS)
