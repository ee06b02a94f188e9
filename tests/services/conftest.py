"""One `make serve`, and one set-up of docker/compose.yaml with a run: they take longer than most tests."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from tests.support import compose
from tests.support.browser import browser as browser
from tests.support.compose import Services, Stopped
from tests.support.serve import Service, make_checkout, wait_until

RUN_SECONDS = 900.0


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def start(checkout: Path) -> Iterator[Callable[[], Service]]:
    started = []

    def start_one() -> Service:
        started.append(Service(checkout))
        started[-1].wait_until_up()
        return started[-1]

    yield start_one
    for service in started:
        if service.process.poll() is None:  # the test failed before its end
            service.process.terminate()
            service.process.wait(120)


@pytest.fixture(scope="session")
def service(start: Callable[[], Service]) -> Service:
    return start()


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    with compose.start_services() as services:
        yield services


@pytest.fixture(scope="session")
def stopped(services: Services) -> Stopped:
    """Two runs of the smoke preset; the worker was stopped in the first training of the first of them."""
    services.run("python", "-m", "flows.deploy")
    with api(services), get_client(sync_client=True) as client:
        ids = [run_deployment("pipeline/pipeline", parameters={"preset": "smoke"}, timeout=0).id for _ in range(2)]
        checkpoints = services.project / ".worktrees/smoke/.cache/train"
        deadline = time.monotonic() + RUN_SECONDS
        while not list(checkpoints.glob("baseline-*/state.pt")):
            assert time.monotonic() < deadline, services.log("worker-cpu").read_text(errors="replace")[-5000:]
            time.sleep(0.05)  # a checkpoint is announced nowhere but on the disk
        alive = services.stop_container("worker-cpu")
        # either may be the first: Prefect orders runs by the time at which they may start
        waiting, run = sorted(map(client.read_flow_run, ids), key=lambda run: run.start_time is not None)
    return Stopped(run, waiting, alive)


@pytest.fixture(scope="session")
def run(services: Services, stopped: Stopped) -> FlowRun:
    """The run that waited, after a worker was started anew."""
    services.start_service("worker-cpu")

    def read() -> FlowRun:
        with api(services), get_client(sync_client=True) as client:
            return client.read_flow_run(stopped.waiting.id)

    wait_until(lambda: read().state.is_final(), RUN_SECONDS, "the run that waited ends")
    worker = services.log("worker-cpu").read_text(errors="replace")[-5000:]
    ended = read()
    assert ended.state is not None
    assert ended.state.is_completed(), f"{ended.state}\n{worker}"
    return ended


@pytest.fixture(scope="session")
def folder(services: Services, run: FlowRun) -> Path:
    """The worktree in which the preset ran."""
    return services.project / ".worktrees/smoke"


def api(services: Services) -> AbstractContextManager[object]:
    """Let Prefect's client here talk to the service."""
    known = services.environment("worker-cpu")
    settings = {
        PREFECT_API_URL: known["PREFECT_API_URL"],
        PREFECT_API_AUTH_STRING: known["PREFECT_API_AUTH_STRING"],
    }
    return temporary_settings(settings)
