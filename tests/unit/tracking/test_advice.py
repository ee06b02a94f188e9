"""One advice for each cause: real failures of MLflow's stores, and answers of servers."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.support.ports import free_ports
from tests.support.tracking import make_outs
from tuwen.core.errors import UserError
from tuwen.tracking import lineage, runs
from tuwen.tracking.advice import UNREACHABLE, find_remedy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlflow's, about sqlalchemy


def fail_to_sync() -> str:
    """The message of a sync that fails."""
    with pytest.raises(UserError) as caught:
        lineage.sync()
    return str(caught.value)


def test_a_deleted_experiment_is_brought_back_by_the_command_that_the_message_names(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make_outs()
    client, experiment = runs.connect()
    client.delete_experiment(experiment)
    message = fail_to_sync()
    command = message.partition("`")[2].partition("`")[0]
    assert command == (
        f"MLFLOW_TRACKING_URI=sqlite:///{project} mlflow experiments restore --experiment-id {experiment}"
    )
    assert "start that server" not in message
    with runs.track_run(Path("models/baseline"), {}, {}, Path(".cache/kept")):
        pass
    assert command in capfd.readouterr().err  # a training says the same
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["bash", "-c", command], env=os.environ | {"PATH": path}, check=True, capture_output=True)
    assert len(lineage.sync()) == 4


def test_a_run_that_is_deleted_while_it_goes_on_is_named(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with runs.track_run(Path("models/baseline"), {}, {}, Path(".cache/kept")) as run:
        MlflowClient(runs.get_address()).delete_run(str(run.id))
        run.log_metrics({"loss": 1.0}, 1)
    assert f"mlflow runs restore --run-id {run.id}" in capfd.readouterr().err


def test_a_database_of_another_version_a_broken_and_an_unwritable_one_have_each_their_own(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = project.with_name("old.db")
    shutil.copyfile(project, old)
    with sqlite3.connect(old) as database:
        database.execute("update alembic_version set version_num = '0584bdc529eb'")
    monkeypatch.setenv("TUWEN_TRACKING_URI", f"sqlite:///{old}")
    assert f"mlflow db upgrade sqlite:///{old}" in fail_to_sync()
    old.write_bytes(b"not a database" * 1000)
    assert "move it away" in fail_to_sync()
    monkeypatch.setenv("TUWEN_TRACKING_URI", f"sqlite:///{old.parent}")
    assert "cannot be written: give this user the right" in fail_to_sync()


class Refusing(BaseHTTPRequestHandler):
    """Answers every request by the status that its server holds."""

    def do_GET(self) -> None:
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server that is no MLflow; its `status` says what it answers."""
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("TUWEN_TRACKING_URI", f"http://ming:geheim@127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (200, "not MLflow"),
        (401, "MLFLOW_TRACKING_USERNAME"),
        (403, "ask its owner for the right"),
        (404, "not MLflow"),
        (503, "its own log says why"),
    ],
)
def test_what_a_server_answers_decides(server: Any, status: int, advice: str) -> None:
    server.status = status
    with pytest.raises(runs.list_store_errors()) as caught:
        runs.connect()
    explained = runs.explain(caught.value)
    assert advice in explained
    assert UNREACHABLE not in explained
    assert "geheim" not in explained


def test_where_nobody_answers_a_server_is_to_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUWEN_TRACKING_URI", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(runs.list_store_errors()) as caught:
        runs.connect()
    assert runs.explain(caught.value).endswith(UNREACHABLE)


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("(sqlite3.OperationalError) database is locked", "another program holds the database"),
        ("attempt to write a readonly database", "cannot be written"),
        ("unsupported URI 'ftp://x' for model registry", "no address of a store"),
        ("HTTPSConnectionPool: certificate verify failed: CERTIFICATE_VERIFY_FAILED", "not trusted"),
        ("Caused by ProxyError('Unable to connect to proxy')", "NO_PROXY"),
        ("anything else", UNREACHABLE),
    ],
)
def test_other_causes_are_told_by_their_words(message: str, advice: str) -> None:
    assert advice in find_remedy(OSError(message), "sqlite:///mlflow.db")
