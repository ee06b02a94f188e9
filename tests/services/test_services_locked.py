"""The set-up of docker/compose.yaml for real: who is refused, and that no secret and no error stands in a log.

test_services.py has the run whose traces are looked through here.
"""

from pathlib import Path

import httpx
import psutil
import pytest
from prefect.client.schemas.objects import FlowRun

from tests.support import server_logs
from tests.support.compose import AS_STRANGER, STRANGER, Services
from tests.support.serve import check_that_mlflow_refuses, check_that_prefect_refuses

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


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


def test_they_run_as_a_user_whom_their_environment_does_not_know(services: Services) -> None:
    if not AS_STRANGER:
        pytest.skip("only root can start them as a user without a name, over packages that they cannot write")
    for name in ("mlflow", "prefect", "worker-cpu"):
        own = psutil.Process(services.running[name].pid).children(
            recursive=True
        )  # of what ends them with the tests
        assert own
        assert {process.uids().real for process in own} == {STRANGER}


def test_no_service_reported_an_error(services: Services, run: FlowRun) -> None:
    assert services.query("prefect", "select count(*) from flow_run where auto_scheduled") != ["0"]  # the nightly
    logs = [services.log(name) for name in ("postgres", "s3", "mlflow", "prefect", "worker-cpu")]
    assert server_logs.find_errors(logs) == []
