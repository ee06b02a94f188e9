"""`make serve` with real processes: a training started from its deployment, cancelled, killed, resumed."""

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from mlflow import MlflowClient
from prefect.client.schemas.objects import TERMINAL_STATES, StateType
from prefect.client.schemas.schedules import IntervalSchedule

from tests.support.checkout import ROOT
from tests.support.flows import END_SECONDS, is_free
from tests.support.nights import read_hour
from tests.support.ports import free_ports
from tests.support.serve import (
    EPOCHS,
    Service,
    check_that_mlflow_refuses,
    check_that_prefect_refuses,
    wait_until,
)
from tests.support.snippets import read_shell

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ANEW = {"stages": ["finetune"], "force": True}  # else DVC's cache gives the model that was trained before


def test_everything_that_prefect_yaml_names_is_registered(service: Service) -> None:
    with service.client() as client:
        deployments = {one.name: one for one in client.read_deployments()}
        pool = client.read_work_pool("tuwen")
    assert pool.type == "process"
    assert set(deployments) == {"pipeline", "publish", "reevaluate", "reevaluate-nightly"}
    for one in deployments.values():
        assert one.global_concurrency_limit is None  # the worker's own limit: two machines work side by side
        assert len(one.description or "") > 20
        fields = one.parameter_openapi_schema["properties"]
        assert all(len(field["description"]) > 30 for field in fields.values()), one.name
        assert set(one.parameters) == set(fields)
        assert str(service.checkout) not in one.model_dump_json()
    hour = read_hour(service.checkout / "prefect.yaml")
    assert [plan.schedule.cron for plan in deployments["reevaluate-nightly"].schedules] == [f"0 {hour} * * *"]
    assert deployments["pipeline"].schedules == deployments["reevaluate"].schedules == []


def test_all_listen_on_this_machine_alone(service: Service) -> None:
    listening = [
        connection.laddr
        for process in service.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    ports = {int(address.rpartition(":")[2].partition("/")[0]) for address in (service.api, service.tracking)}
    assert ports <= {address.port for address in listening}
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_a_cancelled_training_leaves_nothing_and_the_next_run_goes_on(service: Service) -> None:
    cancelled = service.start_training()
    flow = service.find_flow()
    processes = [flow, *flow.children(recursive=True)]
    assert "stages.finetune" in " ".join(word for one in processes for word in one.cmdline())
    assert not is_free(service.card)
    service.cancel(cancelled)
    assert psutil.wait_procs(processes, timeout=END_SECONDS)[1] == []
    assert service.wait_for_end(cancelled, 300) == StateType.CANCELLED
    assert is_free(service.card)
    assert service.list_checkpoints()
    check_that_it_goes_on(service)


def check_that_it_goes_on(service: Service, seconds: float = 600, **parameters: Any) -> None:
    """Let the next run finish the interrupted training, from its checkpoint."""
    following = service.start_run(**parameters)
    assert service.wait_for_end(following, seconds) == StateType.COMPLETED
    wait_until(lambda: "resumed after step" in service.read_log(following), 300, "the log reports it")
    assert f"epoch {EPOCHS}/{EPOCHS}" in wait_until(lambda: service.read_log(following), 300, "a log")
    assert (service.checkout / "models/finetuned/training.json").is_file()
    assert service.list_checkpoints() == []
    shown = service.read_artifacts(following)
    assert "| finetune | **runs** |" in shown["plan-sample"]
    assert service.tracking in shown["mlflow-sample"]
    assert float(shown["progress-finetune"]) == 100


def test_a_schedule_makes_runs_that_start(service: Service) -> None:
    """The nightly comparison waits for its nights; a plan that is due in a quarter of a minute runs to its end."""
    nights = wait_until(lambda: service.list_scheduled("reevaluate/reevaluate-nightly"), 300, "nights are planned")
    hour = read_hour(service.checkout / "prefect.yaml")
    assert {(run.expected_start_time.hour, run.state.type) for run in nights} == {(hour, StateType.SCHEDULED)}
    # The scheduler makes no run that is overdue: where it is later than that, the run of the next minute starts.
    plan = IntervalSchedule(interval=timedelta(minutes=1), anchor_date=datetime.now(UTC) + timedelta(seconds=15))
    with service.client() as client:
        deployment = client.read_deployment_by_name("pipeline/pipeline").id
        (made,) = client.create_deployment_schedules(deployment, [(plan, True)])
        runs = partial(service.list_scheduled, "pipeline/pipeline")
        started = wait_until(lambda: [run for run in runs() if run.start_time], 900, "a planned run starts")
        client.delete_deployment_schedule(deployment, made.id)  # and with it the runs that are not yet due
    assert service.wait_for_end(started[0].id, 600) == StateType.COMPLETED
    wait_until(lambda: all(run.state.is_final() for run in runs()), 300, "no planned run is left")


def test_prefect_refuses_who_lacks_the_password_and_pages_of_other_origins(service: Service) -> None:
    check_that_prefect_refuses(service.api, service.password, service.api.removesuffix("/api"))
    assert (service.checkout / ".prefect/auth").stat().st_mode & 0o777 == 0o600
    assert service.password not in service.read_output()
    environment = {name: value for name, value in service.environment.items() if name != "PREFECT_API_AUTH_STRING"}
    environment |= {"PREFECT_API_URL": service.api}
    run = partial(subprocess.run, cwd=service.checkout, capture_output=True, text=True, timeout=300)
    assert run([sys.executable, "-m", "flows.deploy"], env=environment).returncode == 0  # the checkout's own
    for module, code in (("deploy", 1), ("pipeline", 1), ("reevaluate", 4)):
        command = [sys.executable, "-m", f"flows.{module}"]
        refused = run(command, env=environment | {"PREFECT_API_AUTH_STRING": "x"})
        assert refused.returncode == code
        told = refused.stdout + refused.stderr
        assert "PREFECT_API_AUTH_STRING is not the password of the Prefect server" in told
        assert "Traceback" not in told


def test_mlflow_refuses_pages_of_other_origins_and_other_hosts(service: Service) -> None:
    check_that_mlflow_refuses(service.tracking, service.tracking)


def test_a_killed_flow_leaves_nothing_and_the_next_run_goes_on(service: Service) -> None:
    killed = service.start_training(**ANEW)
    flow = service.find_flow()
    processes = [flow, *flow.children(recursive=True)]
    assert "stages.finetune" in " ".join(word for one in processes for word in one.cmdline())
    flow.kill()
    assert psutil.wait_procs(processes, timeout=END_SECONDS)[1] == []
    assert service.wait_for_end(killed, 300) == StateType.CRASHED
    check_that_it_goes_on(service, **ANEW)


@pytest.fixture(scope="module")
def interrupted(service: Service) -> UUID:
    """A run in the middle of its training."""
    return service.start_training(**ANEW)


@pytest.fixture(scope="module")
def backup(service: Service, interrupted: UUID, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the first block of "Back up" fills while all is running, that run too."""
    MlflowClient(service.tracking).log_text(list_mlflow_runs(service)[0], "一只橘猫", "例子.txt")
    folder = tmp_path_factory.mktemp("safe") / "backup"
    run_block(service.checkout, 0, folder)
    return folder


def run_block(checkout: Path, number: int, backup: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    block = read_shell("operations.md", "Back up")[number]
    environment = os.environ | {"PATH": path, "backup": str(backup)}
    subprocess.run(["bash", "-euc", block], cwd=checkout, env=environment, check=True, timeout=300)


def list_mlflow_runs(service: Service) -> list[str]:
    client = MlflowClient(service.tracking)
    found = client.search_runs([client.get_experiment_by_name("tuwen").experiment_id])
    return [run.info.run_id for run in found]


def list_flow_runs(service: Service) -> set[UUID]:
    with service.client() as client:
        return {run.id for run in client.read_flow_runs(limit=200) if run.start_time}


def test_ctrl_c_ends_all_and_a_later_start_on_the_backup_goes_on(
    service: Service, interrupted: UUID, backup: Path, start: Callable[[], Service]
) -> None:
    made, logged, password = list_flow_runs(service), list_mlflow_runs(service), service.password
    processes = service.processes()
    assert "stages.finetune" in " ".join(word for one in processes for word in one.cmdline())
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(120) == 128 + signal.SIGINT
    assert psutil.wait_procs(processes, timeout=END_SECONDS)[1] == []
    assert service.find_errors() == []  # of this start, with all that the tests above did
    with contextlib.closing(sqlite3.connect(service.checkout / ".prefect/prefect.db")) as database:
        asked = database.execute("select state_type from flow_run where id = ?", [str(interrupted)])
        assert StateType(asked.fetchone()[0]) in TERMINAL_STATES

    for lost in (".prefect", "runs/mlartifacts"):
        shutil.rmtree(service.checkout / lost)
    (service.checkout / "mlflow.db").unlink()
    run_block(service.checkout, 1, backup)
    later = start()
    assert later.password == password
    assert list_flow_runs(later) >= made
    assert list_mlflow_runs(later) == logged
    file = httpx.get(f"{later.tracking}/get-artifact", params={"run_uuid": logged[0], "path": "例子.txt"})
    assert file.text == "一只橘猫"
    check_that_it_goes_on(later, **ANEW)

    # one of the processes dies: all end, and the reason is printed
    processes = later.processes()
    (mlflow,) = [one for one in processes if "mlflow" in one.cmdline() and one.parent() == processes[0]]
    mlflow.kill()
    assert later.process.wait(120) == 1
    assert "mlflow ended with exit code -9" in later.read_output()
    assert psutil.wait_procs(processes, timeout=END_SECONDS)[1] == []
    assert later.find_errors() == []


def test_a_taken_port_is_named(checkout: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_SERVER_API_PORT": port}
        command = [sys.executable, "-m", "flows.serve"]
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert f"PREFECT_SERVER_API_PORT: cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_deploy_without_a_server_says_what_is_missing(checkout: Path) -> None:
    (port,) = free_ports(1)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    command = [sys.executable, "-m", "flows.deploy"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "PREFECT_API_URL: no Prefect server answers" in done.stderr
    assert "make serve" in done.stderr
