"""The set-up of docker/compose.yaml for real: a deployment runs; its outs are pushed, wiped, pulled, measured."""

import contextlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.exceptions import ClientError
from mlflow import MlflowClient
from prefect.client.schemas.objects import FlowRun, StateType

from tests.support import compose
from tests.support.compose import Services, Stopped

MODELS = ("baseline", "finetuned", "reranked")  # the last is switched off, and its outs are there all the same
OUTS = ("data", "embeddings", "models", "results")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


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
