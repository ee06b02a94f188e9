"""Run Prefect's server, pool and worker and MLflow's pages here until Ctrl-C.    python -m flows.serve

PREFECT_SERVER_API_PORT and MLFLOW_PORT choose other ports than 4200 and 5000. All listen on 127.0.0.1 alone;
Prefect asks for this checkout's password (flows/secret.py), and both refuse pages of other origins. Where
TUWEN_TRACKING_URI already names an MLflow server, that one is used.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import psutil
from prefect import get_client
from prefect.client.schemas.objects import WorkPoolStatus
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows import guard, secret
from flows.deploy import CHECKOUT_VARIABLE, POOL, deploy
from flows.worker import end_worker
from tuwen.core.errors import UserError, report_user_errors
from tuwen.tracking.runs import get_address

HOST = "127.0.0.1"
START_SECONDS, POLL_SECONDS = 300.0, 0.3
STOP_SECONDS = 3.0
LOGS, ARTIFACTS = Path("runs/serve"), Path("runs/mlartifacts")

Running = dict[str, subprocess.Popen[bytes]]


@report_user_errors
def main() -> None:
    """Start all, print their addresses, and stop all on Ctrl-C, SIGTERM or when one of them ends."""
    prefect, store = choose_port("PREFECT_SERVER_API_PORT", "4200"), get_address()
    mlflow = "" if store.startswith("http") else choose_port("MLFLOW_PORT", "5000")
    api, tracking = f"http://{HOST}:{prefect}/api", f"http://{HOST}:{mlflow}" if mlflow else store
    environment = (
        os.environ
        | secret.guard_server(os.environ, list_origins(prefect))
        | {
            "PREFECT_API_URL": api,
            "PREFECT_UI_URL": f"http://{HOST}:{prefect}",
            "PREFECT_WORKER_QUERY_SECONDS": "2",  # a click on Run waits for it
            # Jobs evaluate language models, which are not used here: 2 processes of MLflow instead of 10.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            CHECKOUT_VARIABLE: str(Path.cwd()),
            "TUWEN_TRACKING_URI": tracking,
        }
    )
    LOGS.mkdir(parents=True, exist_ok=True)
    print("starting Prefect and MLflow …", flush=True)
    # Prefect makes a folder of one name for all users there: who starts first owns it. Not in the checkout, whose
    # path may be too long for the sockets of the loaders' processes.
    with tempfile.TemporaryDirectory(prefix="tuwen-") as scratch, supervise() as running:
        at = ["--host", HOST, "--port"]
        start(running, "prefect", ["server", "start", *at, prefect], environment)
        if mlflow:
            pages = ["--backend-store-uri", store, "--artifacts-destination", str(ARTIFACTS), "--workers", "1"]
            origins = list_origins(mlflow)
            hosts = [origin.removeprefix("http://") for origin in origins]
            pages += ["--allowed-hosts", ",".join(hosts), "--cors-allowed-origins", ",".join(origins)]
            start(running, "mlflow", ["server", *pages, *at, mlflow], environment)
        wait_until(running, "prefect", lambda: is_healthy(api))
        deploy(api, environment)
        # One run at a time in one checkout; a worker on another machine takes the next.
        worker = ["worker", "start", "--pool", POOL, "--name", "here", "--limit", "1"]
        start(running, "worker", worker, environment | {"TMPDIR": scratch}, "prefect")
        wait_until(running, "mlflow", lambda: is_healthy(tracking))
        wait_until(running, "worker", lambda: is_pool_ready(environment))
        shown = tracking.rpartition("@")[2]  # without a password
        password = secret.locate(os.environ)
        print(f"Prefect  http://{HOST}:{prefect}, which asks once for the password in {password}")
        print(f"MLflow   {shown}\nlogs     {LOGS.absolute()}")
        print("Ctrl-C stops all", flush=True)
        wait_until(running, "", lambda: False, float("inf"))


def list_origins(port: str) -> list[str]:
    """Return the origins of a server's own pages, as its users may type them."""
    return [f"http://{name}:{port}" for name in (HOST, "localhost")]


def choose_port(variable: str, default: str) -> str:
    """Return the port that `variable` names. Raises UserError when it is no number or the port is taken."""
    port = os.environ.get(variable) or default
    try:
        with socket.create_server((HOST, int(port))):
            return port
    except (ValueError, OverflowError, OSError) as error:
        raise UserError(f"{variable}: cannot listen on {HOST}:{port} ({error}); set it to a free port") from None


def start(
    running: Running, name: str, arguments: list[str], environment: Mapping[str, str], tool: str = ""
) -> None:
    """Start one process with its output in a file. Ctrl-C does not reach it: the order of the ends matters."""
    with (LOGS / f"{name}.log").open("wb") as log:
        command = [sys.executable, "-m", tool or name, *arguments]
        running[name] = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
        )


def wait_until(running: Running, name: str, is_there: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Return once `is_there()`. Raises UserError when that takes too long, or when any of the processes ends."""
    deadline = time.monotonic() + seconds
    while not is_there():
        for ended, process in running.items():
            if process.poll() is not None:
                last = (LOGS / f"{ended}.log").read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
                raise UserError("\n".join([f"{ended} ended with exit code {process.returncode}:", *last]))
        if time.monotonic() > deadline:
            raise UserError(f"{name} does not answer after {seconds:.0f} s; see {LOGS / name}.log")
        time.sleep(POLL_SECONDS)  # a server does not report when it begins to answer


def is_healthy(address: str) -> bool:
    """Whether a server answers at this address and calls itself healthy."""
    try:
        return httpx.get(f"{address}/health", timeout=5.0).is_success
    except httpx.HTTPError:
        return False


def is_pool_ready(environment: Mapping[str, str]) -> bool:
    """Whether a worker polls the pool of the server that these variables name."""
    names = {PREFECT_API_URL: "PREFECT_API_URL", PREFECT_API_AUTH_STRING: secret.VARIABLE}
    settings = {setting: environment[name] for setting, name in names.items()}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        return client.read_work_pool(POOL).status == WorkPoolStatus.READY


@contextlib.contextmanager
def supervise() -> Iterator[Running]:
    """Yield the processes by name; at the end, end them in the order of their needs: flows, worker, servers."""
    running: Running = {}
    try:
        yield running
    finally:
        guard.ignore_signals()
        if "worker" in running:  # a run first ends its stage and reports that to the server
            end_worker(running["worker"])
        for name in ("worker", "mlflow", "prefect"):
            if name in running:
                alive = [psutil.Process(running[name].pid)] if running[name].poll() is None else []
                end_processes(alive, STOP_SECONDS)


def end_processes(processes: list[psutil.Process], patience_seconds: float) -> None:
    """Send SIGTERM and wait a while; the guard kills what is left."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(processes, timeout=patience_seconds)


if __name__ == "__main__":
    main()
