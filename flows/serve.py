"""Prefect's server, pool and worker and MLflow's pages on this machine, until Ctrl-C.    python -m flows.serve

PREFECT_SERVER_API_PORT and MLFLOW_PORT choose other ports than 4200 and 5000. All listen on 127.0.0.1 alone. Where
TUWEN_TRACKING_URI already names an MLflow server, that one is used.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import psutil
from prefect import get_client
from prefect.client.schemas.objects import WorkPoolStatus
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import guard
from flows.deploy import CHECKOUT, POOL, deploy
from tuwen.core.errors import UserError, reports_user_errors
from tuwen.tracking.runs import get_address

HOST = "127.0.0.1"
START_SECONDS, POLL_SECONDS = 120.0, 0.3
FLOW_SECONDS, STOP_SECONDS = guard.STAGE_SECONDS + 1.0, 3.0
LOGS, ARTIFACTS = Path("runs/serve"), Path("runs/mlartifacts")

Running = dict[str, subprocess.Popen[bytes]]


@reports_user_errors
def main() -> None:
    """Start all, say where they are, and stop all on Ctrl-C, SIGTERM or when one of them ends."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: sys.exit(128 + got))
    prefect, store = port("PREFECT_SERVER_API_PORT", "4200"), get_address()
    mlflow = "" if store.startswith("http") else port("MLFLOW_PORT", "5000")
    api, tracking = f"http://{HOST}:{prefect}/api", f"http://{HOST}:{mlflow}" if mlflow else store
    environment = os.environ | {
        "PREFECT_API_URL": api,
        "PREFECT_UI_URL": f"http://{HOST}:{prefect}",
        # A server that was killed must know, when it is back, who holds the GPU and for how long.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # who clicks on Run waits for it
        # Its jobs judge language models, which nobody here does: 2 processes of MLflow instead of 10.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        CHECKOUT: str(Path.cwd()),
        "TUWEN_TRACKING_URI": tracking,
    }
    LOGS.mkdir(parents=True, exist_ok=True)
    print("starting Prefect and MLflow …", flush=True)
    with everything() as running:
        at = ["--host", HOST, "--port"]
        start(running, "prefect", ["server", "start", *at, prefect], environment)
        if mlflow:
            pages = ["--backend-store-uri", store, "--artifacts-destination", str(ARTIFACTS), "--workers", "1"]
            start(running, "mlflow", ["server", *pages, *at, mlflow], environment)
        wait_for(running, "prefect", lambda: answers(f"{api}/health"))
        deploy(api)
        start(running, "worker", ["worker", "start", "--pool", POOL, "--name", "here"], environment, "prefect")
        wait_for(running, "mlflow", lambda: answers(f"{tracking}/health"))
        wait_for(running, "worker", lambda: is_ready(api))
        shown = tracking.rpartition("@")[2]  # without a password
        print(f"Prefect  http://{HOST}:{prefect}\nMLflow   {shown}\nlogs     {LOGS.absolute()}")
        print("Ctrl-C stops all", flush=True)
        wait_for(running, "", lambda: False, float("inf"))


def port(variable: str, default: str) -> str:
    """The port that `variable` asks for. Raises UserError when it is no number or somebody listens there."""
    asked = os.environ.get(variable) or default
    try:
        with socket.create_server((HOST, int(asked))):
            return asked
    except (ValueError, OverflowError, OSError) as error:
        raise UserError(f"{variable}: cannot listen on {HOST}:{asked} ({error}); set it to a free port") from None


def start(
    running: Running, name: str, arguments: list[str], environment: Mapping[str, str], tool: str = ""
) -> None:
    """Start one process, its output in a file of its own; Ctrl-C does not reach it, only we end it."""
    with (LOGS / f"{name}.log").open("wb") as log:
        command = [sys.executable, "-m", tool or name, *arguments]
        running[name] = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
        )


def wait_for(running: Running, name: str, is_there: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Return once `is_there`. Raises UserError when that takes too long, or when any of the processes ends."""
    deadline = time.monotonic() + seconds
    while not is_there():
        for one, process in running.items():
            if process.poll() is not None:
                last = (LOGS / f"{one}.log").read_text(errors="replace").splitlines()[-15:]
                raise UserError("\n".join([f"{one} ended with exit code {process.returncode}:", *last]))
        if time.monotonic() > deadline:
            raise UserError(f"{name} does not answer after {seconds:.0f} s; see {LOGS / name}.log")
        time.sleep(POLL_SECONDS)  # a server tells nobody when it begins to answer


def answers(url: str) -> bool:
    """Does a server answer there, and well?"""
    try:
        return httpx.get(url, timeout=5.0).is_success
    except httpx.HTTPError:
        return False


def is_ready(api: str) -> bool:
    """Does a worker look after the pool?"""
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        return client.read_work_pool(POOL).status == WorkPoolStatus.READY


@contextlib.contextmanager
def everything() -> Iterator[Running]:
    """Processes by name, which are ended in the order in which they need each other: flows, worker, servers."""
    running: Running = {}
    try:
        yield running
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if "worker" in running:  # a flow first ends its stage and tells the server so
            flows = []
            with contextlib.suppress(psutil.NoSuchProcess):
                flows = psutil.Process(running["worker"].pid).children()
            end(flows, FLOW_SECONDS)
        for name in ("worker", "mlflow", "prefect"):
            if name in running:
                end([psutil.Process(running[name].pid)] if running[name].poll() is None else [], STOP_SECONDS)


def end(processes: list[psutil.Process], patience_seconds: float) -> None:
    """SIGTERM, and a while to act on it; the guard kills what is left."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(processes, timeout=patience_seconds)


if __name__ == "__main__":
    guard.stand_between()
    main()
