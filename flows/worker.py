"""Work on the pool's runs until SIGTERM, then let each run end in order.    python -m flows.worker

Prefect's worker ends a few seconds after SIGTERM. In a container that is the end of all its processes: a stage
cannot write its checkpoint, and the run stays "Running" and keeps its slot. Here the runs end first, while the
worker is stopped and takes no further one.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil

from flows import guard
from flows.deploy import POOL

RUN_SECONDS = guard.STAGE_SECONDS + 1.0  # for a run to end its stage and report that to the server
WORKER_SECONDS = 3.0
LOOK_SECONDS = 0.2
COMMAND = ["worker", "start", "--pool", POOL, "--type", "process", "--limit", "1", "--with-healthcheck"]


def main() -> None:
    """Run the worker; exit with its code, or with 128 + the signal once the runs and the worker have ended."""
    # A group of its own: Ctrl-C must not reach it before its runs have ended.
    worker = subprocess.Popen([sys.executable, "-m", "prefect", *COMMAND], process_group=0)
    try:
        code = worker.wait()
    finally:
        guard.ignore_signals()
        end_worker(worker)
    sys.exit(code if code >= 0 else 128 - code)


def end_worker(worker: subprocess.Popen[bytes]) -> None:
    """End the runs of a worker, which report themselves as crashed, and then the worker.

    The worker is stopped meanwhile: a run that waits in line would start in the place of the first that ends.
    """
    if worker.poll() is not None:
        return
    os.kill(worker.pid, signal.SIGSTOP)
    end_runs(psutil.Process(worker.pid).children(), RUN_SECONDS)
    worker.terminate()  # it is acted on before all else once the worker goes on
    os.kill(worker.pid, signal.SIGCONT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.wait(WORKER_SECONDS)


def end_runs(runs: list[psutil.Process], patience_seconds: float) -> None:
    """Send SIGTERM to the processes of runs and wait until they have ended, as zombies of a stopped parent."""
    for run in runs:
        with contextlib.suppress(psutil.NoSuchProcess):
            run.terminate()
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline and any(map(is_alive, runs)):
        time.sleep(LOOK_SECONDS)  # only a parent can wait for a process, and theirs is stopped


def is_alive(process: psutil.Process) -> bool:
    """Whether a process has not ended, waited for or not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    main()
