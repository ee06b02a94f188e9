"""Run a child process that ends with the flow: its output goes to the log, its progress to an artifact."""

import contextlib
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.utilities.slugify import slugify

from flows import guard
from tuwen.core.environment import choose_inherited
from tuwen.core.progress import parse_progress

GUARD_SECONDS = guard.STAGE_SECONDS + 4.0  # for the guard to end what it started; its own patience is shorter
PROGRESS_EVERY_SECONDS = 5.0


def watch(command: list[str], folder: Path, name: str) -> tuple[int, str]:
    """Run `command` in `folder` and log its output line by line. Returns its exit code and its last 20 lines.

    name: of its progress artifact, which is made with the first line that reports progress.
    """
    logger, last, progress = get_run_logger(), deque[str](maxlen=20), ProgressArtifact(name)
    with _guarded(command, folder) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
            logger.info(last[-1])
            progress.see(last[-1])
        code = process.wait()
    if code == 0:
        progress.finish()
    return code, "\n".join(last)


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
        except (httpx.HTTPError, PrefectException, RuntimeError) as error:  # RuntimeError: no connection at all
            get_run_logger().warning("progress cannot be shown: %s", error)


@contextlib.contextmanager
def _guarded(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process in a session of its own; it and all it started end with the block or this process."""
    environment = choose_inherited(os.environ) | {  # a worker starts its flows itself, from any shell
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # dvc.yaml says `python`
        "PYTHONUNBUFFERED": "1",  # lines when they are printed, not when a pipe is full
        "TUWEN_PREFECT_FLOW_RUN": flow_run.id or "",  # for the tag of MLflow's run
    }
    process = subprocess.Popen(
        [sys.executable, guard.__file__, str(os.getpid()), *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GUARD_SECONDS)
        guard.end_session(process.pid)
        process.wait()
