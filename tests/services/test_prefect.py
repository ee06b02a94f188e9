"""`make serve` with real processes: a training started from its deployment, cancelled, killed, gone on with.

Server, worker and MLflow run in a small checkout whose one stage is the real fine-tuning.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from flows.repro import GPU_LIMIT, LEASE_SECONDS
from tests.flow_world import END_SECONDS, ROOT
from tests.training_world import settings, write_set
from tuwen import models
from tuwen.augment import augment
from tuwen.params import Params

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

EPOCHS = 150  # at four batches of a few milliseconds each: long enough to be cut off, twice
ANEW = {"stages": ["finetune"], "force": True}  # else DVC's cache gives the model that was trained before
STAGE = """\
stages:
  finetune:
    cmd: python -m stages.finetune
    params: [augment, finetune]
    deps: [data, models/baseline]
    outs: [models/finetuned]
"""


def until(found: Callable[[], Any], seconds: float, what: str) -> Any:
    """What `found` returns once it is something."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)
    return result


class Service:
    """A running `python -m flows.serve` and what a user asks of it."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        prefect, mlflow = free_ports(2)
        self.api, self.tracking = f"http://127.0.0.1:{prefect}/api", f"http://127.0.0.1:{mlflow}"
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PREFECT_SERVER_API_PORT": str(prefect),
            "MLFLOW_PORT": str(mlflow),
            "PREFECT_HOME": str(checkout / ".prefect"),
            "TUWEN_TRACKING_URI": f"sqlite:///{checkout}/mlflow.db",
            "TUWEN_CHECKPOINT_SECONDS": "0",
            "TUWEN_WORKERS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.output = checkout / "serve.txt"
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.serve"], cwd=checkout, env=self.environment, stdout=out, stderr=out
            )

    def wait_until_up(self) -> None:
        def is_up() -> bool:
            assert self.process.poll() is None, self.said()
            return "Ctrl-C stops all" in self.said()

        until(is_up, 150, "make serve says that all is up")

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def everything(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def flow_process(self) -> psutil.Process:
        """The process that the worker runs the flow in."""
        (worker,) = [one for one in self.everything() if "worker" in one.cmdline() and "start" in one.cmdline()]
        (flow,) = worker.children()
        return flow

    def ask(self, deployment: str = "pipeline/pipeline", **parameters: Any) -> UUID:
        with temporary_settings({PREFECT_API_URL: self.api}), get_client(sync_client=True) as client:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def run(self, run_id: UUID) -> FlowRun:
        with temporary_settings({PREFECT_API_URL: self.api}), get_client(sync_client=True) as client:
            return client.read_flow_run(run_id)

    def cancel(self, run_id: UUID) -> None:
        """What the button on the run's page does."""
        with temporary_settings({PREFECT_API_URL: self.api}), get_client(sync_client=True) as client:
            client.set_flow_run_state(run_id, Cancelling())

    def ended(self, run_id: UUID, seconds: float) -> StateType:
        run = until(lambda: (now := self.run(run_id)).state.is_final() and now, seconds, "the run ends")
        return run.state.type

    def log(self, run_id: UUID) -> str:
        """The run's log, which arrives a little later than its state."""
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
        with temporary_settings({PREFECT_API_URL: self.api}), get_client(sync_client=True) as client:
            return "\n".join(line.message for line in client.read_logs(wanted, limit=200))

    def artifacts(self, run_id: UUID) -> dict[str, str]:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        with temporary_settings({PREFECT_API_URL: self.api}), get_client(sync_client=True) as client:
            return {str(one.key): str(one.data) for one in client.read_artifacts(artifact_filter=wanted)}

    def gpu_holders(self) -> int:
        with temporary_settings({PREFECT_API_URL: self.api}), get_client(sync_client=True) as client:
            return client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots

    def checkpoints(self) -> list[Path]:
        return list(self.checkout.glob(".cache/train/finetuned-*/state.pt"))

    def training(self, **parameters: Any) -> UUID:
        """A run whose training has written a checkpoint and goes on."""
        assert self.checkpoints() == []
        run_id = self.ask(**parameters)
        until(self.checkpoints, 120, f"a checkpoint; {self.said()}")
        return run_id


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def read_params() -> Params:
    params = settings(augment={"views": 2, "splits": ["train", "valid", "test"]})
    tuned = params.finetune.fit.model_copy(update={"epochs": EPOCHS, "muon_lr": None})
    return params.model_copy(update={"finetune": params.finetune.model_copy(update={"fit": tuned})})


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project up to the baseline."""
    folder, params = tmp_path_factory.mktemp("checkout"), read_params()
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", folder)
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (folder / "dvc.yaml").write_text(STAGE)
    body = json.dumps(params.model_dump(by_alias=True), ensure_ascii=False)
    (folder / "params.yaml").write_text(body, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TUWEN_WORKERS", "1")
        for name, numbers in (("train", range(8)), ("valid", range(20, 26)), ("test", range(30, 34))):
            write_set(Path("data"), name, {"": numbers})
        write_set(Path("data"), "corpus", {"art": range(100, 108)})
        augment(Path("data/clean"), Path("data/augmented"), params.augment, params.image)
        models.make_baseline(
            Path("data/clean"), Path("models/baseline"), params, Path(".cache/b"), lambda *_: None
        )
    return folder


@pytest.fixture(scope="module")
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
            service.process.wait(30)


@pytest.fixture(scope="module")
def service(start: Callable[[], Service]) -> Service:
    return start()


def test_everything_that_prefect_yaml_names_is_registered(service: Service) -> None:
    with temporary_settings({PREFECT_API_URL: service.api}), get_client(sync_client=True) as client:
        deployments = {one.name: one for one in client.read_deployments()}
        pool = client.read_work_pool("tuwen")
    assert pool.type == "process"
    assert set(deployments) == {"pipeline", "reevaluate", "reevaluate-nightly"}
    for one in deployments.values():
        assert one.global_concurrency_limit is not None
        assert one.global_concurrency_limit.limit == 1
        assert len(one.description or "") > 20
        fields = one.parameter_openapi_schema["properties"]
        assert all(len(field["description"]) > 30 for field in fields.values()), one.name
        assert set(one.parameters) == set(fields)
        assert str(service.checkout) not in one.model_dump_json()
    assert [plan.schedule.cron for plan in deployments["reevaluate-nightly"].schedules] == ["0 3 * * *"]
    assert deployments["pipeline"].schedules == deployments["reevaluate"].schedules == []


def test_all_listen_on_this_machine_alone(service: Service) -> None:
    listening = [
        connection.laddr
        for process in service.everything()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    ports = {int(address.rpartition(":")[2].partition("/")[0]) for address in (service.api, service.tracking)}
    assert ports <= {address.port for address in listening}
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_a_cancelled_training_leaves_nothing_and_the_next_run_goes_on(service: Service) -> None:
    cancelled = service.training()
    flow = service.flow_process()
    processes = [flow, *flow.children(recursive=True)]
    assert "stages.finetune" in " ".join(word for one in processes for word in one.cmdline())
    service.cancel(cancelled)
    assert psutil.wait_procs(processes, timeout=END_SECONDS)[1] == []
    assert service.ended(cancelled, 30) == StateType.CANCELLED
    assert service.gpu_holders() == 0
    assert service.checkpoints()
    goes_on(service)


def goes_on(service: Service, seconds: float = 180, **parameters: Any) -> None:
    """The next run finishes the training that was cut off, from its checkpoint."""
    following = service.ask(**parameters)
    assert service.ended(following, seconds) == StateType.COMPLETED
    until(lambda: "resumed after step" in service.log(following), 30, "the run's log says that it resumed")
    assert f"epoch {EPOCHS}/{EPOCHS}" in until(lambda: service.log(following), 30, "a log")
    assert (service.checkout / "models/finetuned/training.json").is_file()
    assert service.checkpoints() == []
    shown = service.artifacts(following)
    assert "| finetune | **runs** |" in shown["plan-sample"]
    assert service.tracking in shown["mlflow-sample"]
    assert float(shown["progress-finetune"]) == 100


def test_a_killed_flow_leaves_nothing_and_the_next_run_goes_on(service: Service) -> None:
    killed = service.training(**ANEW)
    flow = service.flow_process()
    processes = [flow, *flow.children(recursive=True)]
    assert "stages.finetune" in " ".join(word for one in processes for word in one.cmdline())
    flow.kill()
    assert psutil.wait_procs(processes, timeout=END_SECONDS)[1] == []
    assert service.ended(killed, 60) == StateType.CRASHED
    goes_on(service, 180 + LEASE_SECONDS, **ANEW)


def test_ctrl_c_ends_all_and_a_later_start_goes_on(service: Service, start: Callable[[], Service]) -> None:
    interrupted = service.training(**ANEW)
    processes = service.everything()
    assert "stages.finetune" in " ".join(word for one in processes for word in one.cmdline())
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(30) == 128 + signal.SIGINT
    assert psutil.wait_procs(processes, timeout=END_SECONDS)[1] == []
    later = start()
    assert later.run(interrupted).state.is_final()
    goes_on(later, 180 + LEASE_SECONDS, **ANEW)

    # one of the processes dies: all end, with a word
    processes = later.everything()
    (mlflow,) = [one for one in processes if "mlflow" in one.cmdline() and one.parent() == processes[0]]
    mlflow.kill()
    assert later.process.wait(30) == 1
    assert "mlflow ended with exit code -9" in later.said()
    assert psutil.wait_procs(processes, timeout=END_SECONDS)[1] == []


def test_a_taken_port_is_named(checkout: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_SERVER_API_PORT": port}
        command = [sys.executable, "-m", "flows.serve"]
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"PREFECT_SERVER_API_PORT: cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_deploy_without_a_server_says_what_is_missing(checkout: Path) -> None:
    (port,) = free_ports(1)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    command = [sys.executable, "-m", "flows.deploy"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "PREFECT_API_URL: no Prefect server answers" in done.stderr
    assert "make serve" in done.stderr
