"""The undisturbed run with which every disturbed one is compared, and how `dvc` is started."""

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
RUN_SECONDS = 600  # for one stage or flow to end


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Start the smoke preset's run, which nothing disturbs; a call waits for its end and returns its folder.

    Another run may therefore go on beside it. Tests copy the folder and leave it as it is.
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
    """Make a project of the smoke preset in which no stage has run, with a refit and a re-ranker."""
    overlay = {"finetune": {"refit_all": True}, "augment": {"splits": ["train", "test"]}}
    return smoke.make(folder, overlay | {"rerank": smoke.describe_reranker(epochs=2)})


@contextmanager
def dvc(folder: Path, *arguments: str, **environment: str) -> "Iterator[subprocess.Popen[str]]":
    """Run `dvc ARGUMENTS` there with its output in one pipe; kill it and its children where they take too long."""
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


def read_until(process: "subprocess.Popen[str]", start: str) -> str:
    """Read the output of a process up to the first line that begins with `start`, and return that line."""
    assert process.stdout is not None
    return next(line for line in process.stdout if line.startswith(start))


def kill_group(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """Send SIGKILL to a process that leads a group and to all in the group, unless it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
