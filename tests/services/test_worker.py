"""flows/worker.py stopped in a training as an engine stops a container: its run ends, and the next goes on."""

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from prefect import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from ruamel.yaml import YAML

from flows.deploy import deploy
from flows.repro import GPU_LIMIT
from flows.worker import is_alive
from tests.support.checkout import ROOT
from tests.support.ports import free_ports, is_answering
from tests.support.serve import make_checkout, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

WORKER = YAML(typ="safe", pure=True).load(ROOT / "docker/compose.yaml")["services"]["worker-cpu"]
GRACE_SECONDS = float(WORKER["stop_grace_period"].removesuffix("s"))
STEP_SECONDS = 900.0


class Container:
    """A worker with the command of the compose file in a checkout, and the server that it works for."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        port, health = free_ports(2)
        self.api = f"http://127.0.0.1:{port}/api"
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(checkout / ".prefect"),
            "PREFECT_WORKER_WEBSERVER_PORT": str(health),
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "TUWEN_TRACKING_URI": f"sqlite:///{checkout}/mlflow.db",
            "TUWEN_CHECKOUT": str(checkout),
            "TUWEN_STOP_SECONDS": WORKER["environment"]["TUWEN_STOP_SECONDS"],
            "TUWEN_CHECKPOINT_SECONDS": "0",
            "TUWEN_WORKERS": "1",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(checkout),
        }
        self.server = self.start("server", "-m", "prefect", "server", "start", "--port", str(port))
        wait_until(lambda: is_answering(f"{self.api}/health"), STEP_SECONDS, "the server answers")
        deploy(self.api)

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.checkout / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments], cwd=self.checkout, env=self.environment, stdout=log, stderr=log
            )

    def start_worker(self) -> subprocess.Popen[bytes]:
        python, *arguments = shlex.split(WORKER["command"])
        assert python == "python"
        return self.start("worker", *arguments)

    def start_run(self) -> UUID:
        with temporary_settings({PREFECT_API_URL: self.api}), get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("pipeline/pipeline").id
            return client.create_flow_run_from_deployment(deployment).id

    def read_state(self, run: UUID) -> State:
        with temporary_settings({PREFECT_API_URL: self.api}), get_client(sync_client=True) as client:
            state = client.read_flow_run(run).state
        assert state is not None
        return state

    def count_gpu_holders(self) -> int:
        with temporary_settings({PREFECT_API_URL: self.api}), get_client(sync_client=True) as client:
            return client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots

    def list_checkpoints(self) -> list[Path]:
        return list(self.checkout.glob(".cache/train/finetuned-*/state.pt"))

    def read_log(self) -> str:
        return (self.checkout / "worker.log").read_text(errors="replace")


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    container = Container(make_checkout(tmp_path))
    yield container
    end_at_once(psutil.Process(container.server.pid))
    container.server.wait()


def end_at_once(first: psutil.Process) -> None:
    """Kill a process and all that it started, as an engine does when a container's first process has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [*first.children(recursive=True), first]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def test_a_stopped_worker_lets_its_run_end_and_the_next_one_goes_on(container: Container) -> None:
    worker = container.start_worker()
    stopped, waiting = container.start_run(), container.start_run()
    wait_until(container.list_checkpoints, STEP_SECONDS, container.read_log())
    below = psutil.Process(worker.pid).children(recursive=True)
    worker.terminate()
    code = worker.wait(GRACE_SECONDS)
    alive = [" ".join(one.cmdline()) for one in below if is_alive(one)]
    for process in below:
        end_at_once(process)
    assert (code, alive) == (143, [])
    assert container.read_state(stopped).type == StateType.CRASHED
    assert container.count_gpu_holders() == 0
    assert container.list_checkpoints()
    assert not container.read_state(waiting).is_final()  # it did not take the other's place

    worker = container.start_worker()
    wait_until(lambda: container.read_state(waiting).is_final(), STEP_SECONDS, container.read_log())
    assert container.read_state(waiting).type == StateType.COMPLETED, container.read_log()
    assert "resumed after step" in container.read_log()
    worker.terminate()
    assert worker.wait(GRACE_SECONDS) == 143
