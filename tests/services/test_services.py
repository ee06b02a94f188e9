"""The set-up of docker/compose.yaml for real: a deployment runs; its outs are pushed, wiped, pulled, measured."""

import contextlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import httpx
import psutil
import pytest
from botocore.exceptions import ClientError
from mlflow import MlflowClient
from prefect import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from tests.support import compose, server_logs
from tests.support.compose import Services
from tests.support.serve import check_that_mlflow_refuses, check_that_prefect_refuses, wait_until

RUN_SECONDS = 900.0
MODELS = ("baseline", "finetuned", "reranked")  # the last is switched off, and its outs are there all the same
OUTS = ("data", "embeddings", "models", "results")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with compose.start_services() as services:
        yield services


class Stopped(NamedTuple):
    """What a worker left that was stopped in a training, as an engine stops a container."""

    run: FlowRun  # that was under way
    waiting: FlowRun  # that would have been the next
    alive: list[str]  # commands that had not ended by themselves


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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


def api(services: Services) -> AbstractContextManager[object]:
    """Let Prefect's client here talk to the service."""
    known = services.environment("worker-cpu")
    settings = {
        PREFECT_API_URL: known["PREFECT_API_URL"],
        PREFECT_API_AUTH_STRING: known["PREFECT_API_AUTH_STRING"],
    }
    return temporary_settings(settings)


@pytest.fixture(scope="module")
def folder(services: Services, run: FlowRun) -> Path:
    """The worktree in which the preset ran."""
    return services.project / ".worktrees/smoke"


def read_metrics(folder: Path) -> dict[str, Any]:
    return {model: json.loads((folder / "results" / model / "metrics.json").read_text()) for model in MODELS}


def test_a_stopped_worker_leaves_a_crashed_run_and_takes_no_other(stopped: Stopped) -> None:
    assert stopped.alive == []
    assert stopped.run.state is not None
    assert stopped.run.state.type == StateType.CRASHED, stopped.run.state
    assert stopped.waiting.state is not None
    assert stopped.waiting.state.type == StateType.SCHEDULED, stopped.waiting.state


def test_the_run_that_waited_goes_on_from_the_checkpoint(services: Services, run: FlowRun) -> None:
    logged = services.query("prefect", f"select message from log where flow_run_id = '{run.id}'")
    assert [line for line in logged if "resumed after step" in line]


@pytest.mark.parametrize("service", ["prefect", "mlflow"])
def test_pages_are_served(services: Services, service: str) -> None:
    port = {"prefect": 4200, "mlflow": 5000}[service]
    login = services.login if service == "mlflow" else None
    page = httpx.get(f"http://127.0.0.1:{services.ports[port]}/", follow_redirects=True, auth=login)
    assert page.status_code == 200, page.text
    assert "<script" in page.text


def test_the_link_to_mlflow_leads_where_a_browser_can_follow(services: Services, run: FlowRun) -> None:
    (link,) = services.query(
        "prefect", f"select data from artifact where key = 'mlflow-smoke' and flow_run_id = '{run.id}'"
    )
    assert services.environment("worker-cpu")["TUWEN_TRACKING_PAGES"] in link
    assert re.search(r"#/experiments/\d+/runs\)", link)  # without /runs, a page for language models, and empty


def test_runs_and_their_tasks_stand_in_prefects_database(
    services: Services, stopped: Stopped, run: FlowRun
) -> None:
    tasks: set[str] = set()
    for one, state in ((stopped.run, "CRASHED"), (run, "COMPLETED")):
        assert services.query("prefect", f"select state_type from flow_run where id = '{one.id}'") == [state]
        tasks |= set(services.query("prefect", f"select name from task_run where flow_run_id = '{one.id}'"))
    stages = services.run("dvc", "stage", "list", "--name-only", folder=services.project / ".worktrees/smoke")
    assert set(stages.split()) <= tasks


def test_trainings_and_evaluations_stand_in_mlflows_database(services: Services, run: FlowRun) -> None:
    asked = "select value, status from runs join tags using (run_uuid) where key = 'tuwen.out'"
    listed = services.query("mlflow", f"{asked} and lifecycle_stage = 'active'")
    outs = ["models/baseline", "models/finetuned", "results/baseline", "results/finetuned"]
    assert sorted(listed) == [f"{out}|FINISHED" for out in outs]


def test_mlflow_keeps_artifacts_in_s3_and_its_clients_need_no_keys(
    services: Services, run: FlowRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(("USERNAME", "PASSWORD"), services.login, strict=True):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    client = MlflowClient(services.environment("worker-cpu")["TUWEN_TRACKING_URI"])
    made = client.search_runs(
        [client.get_experiment_by_name("tuwen").experiment_id], "tags.`tuwen.out` = 'models/finetuned'"
    )
    client.log_text(made[0].info.run_id, "一只橘猫趴在窗台上。", "例子.txt")
    (stored,) = (services.folder / "s3/mlflow").rglob("例子.txt")
    assert stored.read_text(encoding="utf-8") == "一只橘猫趴在窗台上。"
    assert client.list_artifacts(made[0].info.run_id)[-1].path == "例子.txt"


def test_a_wiped_workspace_comes_back_from_s3_and_measures_the_same(services: Services, folder: Path) -> None:
    before = read_metrics(folder)
    services.run("dvc", "push", folder=folder)
    wipe(services, folder)
    assert "deleted" in services.run("dvc", "status", folder=folder)
    services.run("dvc", "pull", folder=folder)
    with pytest.raises(FileNotFoundError):
        read_metrics(folder)  # no store holds them: what follows measures them anew
    again = services.run(
        "dvc", "repro", "--force", "--single-item", *(f"evaluate@{model}" for model in MODELS), folder=folder
    )
    assert again.count("Running stage") == len(MODELS)
    assert read_metrics(folder) == before
    assert services.run("dvc", "status", "--json", folder=folder).strip() == "{}"


def wipe(services: Services, folder: Path) -> None:
    """Leave of the run what a commit of it would hold, but for the metrics: dvc.lock, quality figures, report."""
    kept = {name: (folder / name).read_bytes() for name in ("data/clean/quality.json", "results/report.md")}
    shutil.rmtree(services.project / ".dvc/cache")
    for name in OUTS:
        shutil.rmtree(folder / name)
    services.run("git", "checkout", "--quiet", "--", "data/raw/corpus", folder=folder)
    for name, content in kept.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    services.give(services.project)


def test_a_dump_in_a_new_cluster_holds_all_runs(services: Services, run: FlowRun) -> None:
    """The commands of docs/containers.md but for `docker compose exec`, with the same docker/.env."""
    asked = {
        "prefect": "select id, state_type from flow_run where start_time is not null order by id",
        "mlflow": "select run_uuid, status from runs order by run_uuid",
    }
    held = {database: services.query(database, sql) for database, sql in asked.items()}
    assert all(held.values())
    dump = services.folder / "tuwen.sql"
    dump.write_text(services.run_as_admin("pg_dumpall"), encoding="utf-8")
    with tempfile.TemporaryDirectory() as data, contextlib.ExitStack() as ends:
        new = Services(services.folder / "new", services.project, services.secrets)
        new.folder.mkdir()
        ends.callback(new.stop)
        compose.start_postgres(new, Path(data))
        new.run_as_admin("psql", "--file", str(dump))
        assert {database: new.query(database, sql) for database, sql in asked.items()} == held


def test_every_service_listens_on_this_machine_alone(services: Services, run: FlowRun) -> None:
    processes = [
        child for one in services.running.values() for child in psutil.Process(one.pid).children(recursive=True)
    ]
    listening = {
        (there.laddr.ip, there.laddr.port)
        for process in processes
        for there in process.net_connections("inet")
        if there.status == psutil.CONN_LISTEN
    }
    assert {address for address, _ in listening} == {"127.0.0.1"}
    assert set(services.ports.values()) <= {port for _, port in listening}


def test_s3_refuses_a_stranger(services: Services, folder: Path) -> None:
    endpoint = services.environment("worker-cpu")["AWS_ENDPOINT_URL_S3"]
    stranger = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=services.secrets["S3_ACCESS_KEY"],
        aws_secret_access_key="0" * 40,
        region_name="us-east-1",
    )
    with pytest.raises(ClientError, match=r"403|SignatureDoesNotMatch|AccessDenied"):
        stranger.list_objects_v2(Bucket="dvc")
    refused = services.attempt("dvc", "status", "--cloud", folder=folder, AWS_SECRET_ACCESS_KEY="0" * 40)
    assert refused.returncode != 0
    assert "in sync" in services.run("dvc", "status", "--cloud", folder=folder)


def test_mlflow_refuses_a_host_that_is_not_listed(services: Services) -> None:
    address = f"{services.environment('worker-cpu')['TUWEN_TRACKING_URI']}/api/2.0/mlflow/experiments/search"
    ask, login = {"max_results": 1}, services.login
    assert httpx.post(address, json=ask, auth=login).status_code == 200
    assert httpx.post(address, json=ask, headers={"Host": "example.org"}, auth=login).status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("POST", "/api/2.0/mlflow/experiments/search"),
        ("POST", "/ajax-api/2.0/mlflow/runs/create"),
        ("POST", "/graphql"),
        ("GET", "/get-artifact?run_uuid=1&path=a"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts?path=a"),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/a/b.txt"),
        ("GET", "/api/2.0/mlflow/users/list"),
        ("POST", "/v1/traces"),
        ("GET", "/signup"),
    ],
)
def test_mlflow_asks_for_its_password(services: Services, method: str, path: str) -> None:
    address = f"{services.environment('worker-cpu')['TUWEN_TRACKING_URI']}{path}"
    user, password = services.login
    for login in (None, (user, "x" * len(password)), ("admin", "password1234")):
        assert httpx.request(method, address, auth=login).status_code == 401, login
    assert httpx.request(method, address, auth=(user, password)).status_code != 401


def test_who_has_another_password_is_told_what_to_set(services: Services, folder: Path) -> None:
    refused = services.attempt(
        "python", "-m", "tuwen.cli", "track", "sync", folder=folder, MLFLOW_TRACKING_PASSWORD="x" * 40
    )
    assert refused.returncode != 0
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in refused.stderr


def test_prefect_refuses_who_lacks_the_password_and_pages_of_other_origins(services: Services) -> None:
    api, password = (services.environment("worker-cpu")[f"PREFECT_API_{name}"] for name in ("URL", "AUTH_STRING"))
    check_that_prefect_refuses(api, password, f"http://localhost:{services.ports[4200]}")
    refused = services.attempt("python", "-m", "flows.deploy", PREFECT_API_AUTH_STRING="x")
    assert refused.returncode == 1
    assert "PREFECT_API_AUTH_STRING is not the password of the Prefect server" in refused.stderr


def test_mlflow_refuses_pages_of_other_origins(services: Services) -> None:
    address = services.environment("worker-cpu")["TUWEN_TRACKING_URI"]
    check_that_mlflow_refuses(address, f"http://localhost:{services.ports[5000]}", services.login)


@pytest.mark.parametrize("database", ["mlflow", "prefect"])
def test_a_database_opens_for_its_own_role_and_password_alone(services: Services, database: str) -> None:
    import psycopg2

    other = {"mlflow": "prefect", "prefect": "mlflow"}[database]
    at = {"host": "127.0.0.1", "port": services.ports[5432], "dbname": database}
    own, foreign = (services.secrets[f"{name.upper()}_DB_PASSWORD"] for name in (database, other))
    psycopg2.connect(user=database, password=own, **at).close()
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(user=database, password=foreign, **at)
    with pytest.raises(psycopg2.OperationalError, match="permission denied"):
        psycopg2.connect(user=other, password=foreign, **at)


def test_no_secret_stands_in_a_log_a_file_or_a_database(services: Services, folder: Path) -> None:
    found = []
    texts = [*services.folder.glob("*.log"), *(path for path in services.project.rglob("*") if path.is_file())]
    for path in texts:
        content = path.read_bytes()
        found += [(path.name, name) for name, value in services.secrets.items() if value.encode() in content]
    assert len(texts) > 100
    for database in ("mlflow", "prefect"):
        dump = services.run_tool(database, "pg_dump", "--data-only")
        assert "finetuned" in dump  # the run's name in MLflow, stages in Prefect's log
        found += [(database, name) for name, value in services.secrets.items() if value in dump]
    assert found == []


def test_no_service_reported_an_error(services: Services, run: FlowRun) -> None:
    assert services.query("prefect", "select count(*) from flow_run where auto_scheduled") != ["0"]  # the nightly
    logs = [services.log(name) for name in ("postgres", "s3", "mlflow", "prefect", "worker-cpu")]
    assert server_logs.find_errors(logs) == []
