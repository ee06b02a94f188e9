"""The unbroken run that every broken one is compared with."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import smoke

Whole = Callable[[], Path]
RUN_SECONDS = 240  # for one stage or flow to end


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Starts the smoke preset's run, never disturbed; a call waits for its end and gives its folder.

    So another run may go on beside it. Tests copy the folder and leave it as it is.
    """
    folder = make(tmp_path_factory.mktemp("whole") / "project")
    with open(folder.parent / "log", "w+") as log:
        process = subprocess.Popen(
            ["dvc", "repro"], cwd=folder, env=smoke.environment(), stdout=log, stderr=log, process_group=0
        )

        def finished() -> Path:
            assert process.wait(smoke.RUN_SECONDS) == 0, (folder.parent / "log").read_text()
            return folder

        yield finished
        kill_group(process)


def make(folder: Path) -> Path:
    """The smoke preset in which nothing has run, and in which `refit` is a training of its own."""
    params = smoke.make(folder) / "params.yaml"
    asked = params.read_text().replace("refit_all: false", "refit_all: true")
    params.write_text(asked.replace("splits: [train]", "splits: [train, test]"))
    return folder


@contextmanager
def dvc(folder: Path, *arguments: str, **environment: str) -> "Iterator[subprocess.Popen[str]]":
    """`dvc ARGUMENTS` there, all it says in one pipe; SIGKILL for it and its children where they last too long."""
    process = subprocess.Popen(
        ["dvc", *arguments],
        cwd=folder,
        env=smoke.environment(PYTHONUNBUFFERED="1", **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    watch = threading.Timer(RUN_SECONDS, kill_group, [process])
    watch.start()
    try:
        yield process
    finally:
        watch.cancel()
        kill_group(process)


def says(process: "subprocess.Popen[str]", start: str) -> str:
    """Read what a process says up to the first line that begins so, and return that line."""
    assert process.stdout is not None
    return next(line for line in process.stdout if line.startswith(start))


def kill_group(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """SIGKILL for a process that leads a group, and for all in it; nothing where it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
