"""`make serve` in a small checkout whose one stage is the real fine-tuning, and what a user does with it."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from tests.support import server_logs
from tests.support.checkout import ROOT
from tests.support.nights import move_nights
from tests.support.ports import free_ports
from tests.support.training import settings, write_baseline
from tuwen.core.params import Params

EPOCHS = 150  # at four batches of a few milliseconds each: long enough to be cut off, twice
STAGE = """\
stages:
  finetune:
    cmd: python -m stages.finetune
    meta: {gpu: true}
    params: [augment, finetune]
    deps: [data, models/baseline]
    outs: [models/finetuned]
"""


def wait_until(look: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return what `look` returns as soon as it is something; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := look()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)  # Prefect's API has nothing that waits
    return result


class Service:
    """A running `python -m flows.serve`, and what a user does in the browser."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        prefect, mlflow = free_ports(2)
        self.api, self.tracking = f"http://127.0.0.1:{prefect}/api", f"http://127.0.0.1:{mlflow}"
        self.card = f"GPU-test-{uuid.uuid4()}"
        (checkout / "tmp").mkdir(exist_ok=True)
        (checkout / "tmp/runner_storage").touch()  # as good as another user's: nothing can be made in it
        self.environment = os.environ | {
            "CUDA_VISIBLE_DEVICES": self.card,
            "TMPDIR": str(checkout / "tmp"),
            "PYTHONPATH": str(ROOT),
            "PREFECT_SERVER_API_PORT": str(prefect),
            "MLFLOW_PORT": str(mlflow),
            "PREFECT_HOME": str(checkout / ".prefect"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",  # by default it looks for a new run every ten
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

    @property
    def password(self) -> str:
        return (self.checkout / ".prefect/auth").read_text()

    @contextlib.contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        """Yield a client of Prefect's that knows the password."""
        settings = {PREFECT_API_URL: self.api, PREFECT_API_AUTH_STRING: self.password}
        with temporary_settings(settings), get_client(sync_client=True) as client:
            yield client

    def wait_until_up(self) -> None:
        def is_up() -> bool:
            assert self.process.poll() is None, self.read_output()
            return "Ctrl-C stops all" in self.read_output()

        wait_until(is_up, 600, "make serve reports that all is up")

    def read_output(self) -> str:
        return self.output.read_text(errors="replace")

    def find_errors(self) -> list[str]:
        """Return what the servers' logs of the last start hold of errors."""
        logs = sorted((self.checkout / "runs/serve").glob("*.log"))
        assert [log.stem for log in logs] == ["mlflow", "prefect", "worker"]
        return server_logs.find_errors(logs)

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def find_flow(self) -> psutil.Process:
        """Return the process in which the worker runs the flow."""
        (worker,) = [one for one in self.processes() if {"worker", "start"} <= set(one.cmdline())]
        (flow,) = worker.children()
        return flow

    def start_run(self, deployment: str = "pipeline/pipeline", **parameters: Any) -> UUID:
        with self.client() as client:
            deployment_id = client.read_deployment_by_name(deployment).id
            return client.create_flow_run_from_deployment(deployment_id, parameters=parameters).id

    def list_scheduled(self, deployment: str) -> list[FlowRun]:
        """Return the runs that the scheduler has made for a deployment."""
        with self.client() as client:
            made = FlowRunFilterDeploymentId(any_=[client.read_deployment_by_name(deployment).id])
            runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(deployment_id=made))
        return [run for run in runs if run.auto_scheduled]

    def read_run(self, run_id: UUID) -> FlowRun:
        with self.client() as client:
            return client.read_flow_run(run_id)

    def cancel(self, run_id: UUID) -> None:
        """Do what the button on the run's page does."""
        with self.client() as client:
            client.set_flow_run_state(run_id, Cancelling())

    def wait_for_end(self, run_id: UUID, seconds: float) -> StateType:
        run = wait_until(lambda: (run := self.read_run(run_id)).state.is_final() and run, seconds, "the run ends")
        return run.state.type

    def read_log(self, run_id: UUID) -> str:
        """Return the run's log, which arrives a little later than its state."""
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
        with self.client() as client:
            return "\n".join(line.message for line in client.read_logs(wanted, limit=200))

    def read_artifacts(self, run_id: UUID) -> dict[str, str]:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        with self.client() as client:
            return {str(one.key): str(one.data) for one in client.read_artifacts(artifact_filter=wanted)}

    def list_checkpoints(self) -> list[Path]:
        return list(self.checkout.glob(".cache/train/finetuned-*/state.pt"))

    def start_training(self, **parameters: Any) -> UUID:
        """Start a run; return once its training has written a checkpoint and goes on."""
        assert self.list_checkpoints() == []
        run_id = self.start_run(**parameters)
        wait_until(self.list_checkpoints, 400, f"a checkpoint; {self.read_output()}")
        return run_id


def check_that_prefect_refuses(api: str, password: str, own_origin: str) -> None:
    """401 without the password, whatever is asked; only the server's own pages may ask with it from a browser."""
    known = {"Authorization": "Basic " + base64.b64encode(password.encode()).decode()}
    pool = {"name": "foreign", "type": "process", "base_job_template": {}}
    for headers in ({}, {"Authorization": "Basic " + base64.b64encode(b"admin:pass").decode()}):
        assert httpx.post(f"{api}/work_pools/", json=pool, headers=headers).status_code == 401
        assert httpx.get(f"{api}/admin/settings", headers=headers).status_code == 401
    assert httpx.post(f"{api}/work_pools/filter", json={}, headers=known).status_code == 200
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for origin, status in (
        (own_origin, 200),
        ("https://example.org", 400),
        ("http://127.0.0.1:1", 400),
        ("null", 400),
    ):
        answer = httpx.options(f"{api}/work_pools/filter", headers={"Origin": origin} | asks)
        assert answer.status_code == status, origin
        assert answer.headers.get("Access-Control-Allow-Origin") == (origin if status == 200 else None)
    foreign = httpx.post(f"{api}/work_pools/filter", json={}, headers=known | {"Origin": "https://example.org"})
    assert "Access-Control-Allow-Origin" not in foreign.headers  # no browser hands the answer to that page


def check_that_mlflow_refuses(address: str, own_origin: str, login: tuple[str, str] | None = None) -> None:
    """Pages of other origins may ask nothing, and no other host name leads to the server."""
    path, ask = f"{address}/api/2.0/mlflow/experiments/search", {"max_results": 1}
    assert httpx.post(path, json=ask, headers={"Origin": own_origin}, auth=login).status_code == 200
    for header in ({"Origin": "https://example.org"}, {"Host": "example.org"}, {"Host": "192.168.1.7:5000"}):
        assert httpx.post(path, json=ask, headers=header, auth=login).status_code == 403, header


def make_checkout(folder: Path) -> Path:
    """Make a project that has been run up to the baseline."""
    params = read_params()
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", folder)
    move_nights(folder / "prefect.yaml")
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (folder / "dvc.yaml").write_text(STAGE)
    body = json.dumps(params.model_dump(by_alias=True), ensure_ascii=False)
    (folder / "params.yaml").write_text(body, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TUWEN_WORKERS", "1")
        write_baseline(params)
    return folder


def read_params() -> Params:
    params = settings(augment={"views": 2, "splits": ["train", "valid", "test"]})
    tuned = params.finetune.fit.model_copy(update={"epochs": EPOCHS, "muon_lr": None})
    return params.model_copy(update={"finetune": params.finetune.model_copy(update={"fit": tuned})})
