"""Run a child process that ends with the flow: its output goes to the log, its progress to an artifact."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.utilities.slugify import slugify

from flows import guard
from flows.memory import is_about_memory
from tuwen.core.environment import choose_inherited
from tuwen.core.progress import parse_progress

GUARD_SECONDS = guard.STAGE_SECONDS + 4.0  # for the guard to end what it started; its own patience is shorter
PROGRESS_EVERY_SECONDS = 5.0
# A server that answers late, with an error or not at all; RuntimeError: no connection could be made.
SERVER_ERRORS = (httpx.HTTPError, PrefectException, RuntimeError)


class Children:
    """The child processes of one flow, started by several threads, and the one call that ends them all."""

    def __init__(self) -> None:
        self.stopped = False
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[str]] = []

    def stop(self) -> None:
        """End those that run and let no other start. The threads that watch them then return by themselves."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()

    @contextlib.contextmanager
    def start(
        self, command: list[str], folder: Path, environment: Mapping[str, str], locks: Sequence[int]
    ) -> Iterator[subprocess.Popen[str]]:
        """Start a process in a session of its own; it and all it started end with the block or this process.

        environment: variables besides those of this process. locks: open files that live as long as the process.
        Raises StoppedError after `stop`.
        """
        with self._lock:
            if self.stopped:
                raise StoppedError("the flow ends")
            process = _start_guarded(command, folder, environment, locks)
            self._running.append(process)
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GUARD_SECONDS)
            guard.end_session(process.pid)
            process.wait()
            with self._lock:
                self._running.remove(process)


class StoppedError(Exception):
    """The flow is ending; nothing may be started any more."""


def watch(
    command: list[str],
    folder: Path,
    name: str,
    *,
    children: Children | None = None,
    environment: Mapping[str, str] | None = None,
    locks: Sequence[int] = (),
) -> tuple[int, str]:
    """Run `command` in `folder` and log its output line by line. Returns its exit code and its last lines.

    These are 20, below the one that said that memory ran out. name: of its progress artifact, which is made with
    the first line that reports progress. children, environment, locks: as `Children.start` takes them.
    """
    logger, last, progress, memory = get_run_logger(), deque[str](maxlen=20), ProgressArtifact(name), ""
    with (children or Children()).start(command, folder, environment or {}, locks) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
            logger.info(last[-1])
            progress.see(last[-1])
            memory = last[-1] if not memory and is_about_memory(line) else memory
        code = process.wait()
    if code == 0:
        progress.finish()
    return code, "\n".join([memory, *last] if memory and memory not in last else last)


class ProgressArtifact:
    """The progress artifact of one stage; a server that cannot be reached never stops the stage."""

    def __init__(self, name: str) -> None:
        self.name, self._updated_at = name, float("-inf")
        self._id: UUID | None = None

    def see(self, line: str) -> None:
        """Update the artifact where a line of output reports progress and the last update is long enough ago."""
        progress = parse_progress(line)
        if progress is not None and time.monotonic() - self._updated_at >= PROGRESS_EVERY_SECONDS:
            label, part = progress
            self._update(100 * part, f"{self.name}: {label}")
            self._updated_at = time.monotonic()

    def finish(self) -> None:
        """Set the artifact to 100 %, whatever the last line was; without one, do nothing."""
        if self._id is not None:
            self._update(100.0, f"{self.name}: done")

    def _update(self, percent: float, description: str) -> None:
        try:
            if self._id is None:
                key = slugify(f"progress-{self.name}")
                artifact_id = create_progress_artifact(percent, key, description)
                assert isinstance(artifact_id, UUID)
                self._id = artifact_id
            else:
                update_progress_artifact(self._id, percent, description)
        except SERVER_ERRORS as error:
            get_run_logger().warning("progress cannot be shown: %s", error)


def _start_guarded(
    command: list[str], folder: Path, environment: Mapping[str, str], locks: Sequence[int]
) -> subprocess.Popen[str]:
    inherited = choose_inherited(os.environ) | {  # a worker starts its flows itself, from any shell
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # dvc.yaml says `python`
        "PYTHONUNBUFFERED": "1",  # lines when they are printed, not when a pipe is full
        "TUWEN_PREFECT_FLOW_RUN": flow_run.id or "",  # for the tag of MLflow's run
    }
    return subprocess.Popen(
        [sys.executable, guard.__file__, str(os.getpid()), *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**inherited, **environment},
        start_new_session=True,
        pass_fds=locks,
    )
