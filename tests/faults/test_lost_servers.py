"""MLflow's or Prefect's server killed during a run: the work goes on, or can be resumed later."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import RUN_SECONDS, Whole, dvc, kill_group, read_until
from tests.support import smoke
from tests.support.checkout import ROOT
from tests.support.ports import free_ports, is_answering
from tests.support.smoke import outs

START_SECONDS = 300


@contextmanager
def serving(health: str, *command: str, log: Path, **environment: str) -> Iterator[None]:
    """Run `python -m COMMAND`, a server that answers at `health`; kill it and its children at the end."""
    with open(log, "a") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=smoke.environment(**environment),
            stdout=file,
            stderr=file,
            process_group=0,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_answering(health):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)  # a server does not report when it is up
        yield
    finally:
        kill_group(server)


def test_mlflow_killed_during_training_costs_a_warning_and_sync_brings_the_metrics(
    whole: Whole, tmp_path: Path, empty_store: Path
) -> None:
    from mlflow import MlflowClient

    shutil.copyfile(empty_store, tmp_path / "server.db")
    project, (port,) = shutil.copytree(whole(), tmp_path / "project", symlinks=True), free_ports(1)
    address = f"http://127.0.0.1:{port}"
    server = ["mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--workers", "1"]
    server += ["--host", "127.0.0.1", "--port", str(port), "--artifacts-destination", str(tmp_path / "artifacts")]
    with ExitStack() as started:
        up = started.enter_context(ExitStack())
        up.enter_context(serving(f"{address}/health", *server, log=tmp_path / "log"))
        arguments = ["repro", "--force", "--single-item", "baseline"]
        training = started.enter_context(dvc(project, *arguments, TUWEN_TRACKING_URI=address))
        read_until(training, "epoch 1/2")
        os.killpg(training.pid, signal.SIGSTOP)  # so that the server is gone before the second epoch
        up.close()
        os.killpg(training.pid, signal.SIGCONT)
        output, _ = training.communicate()  # `dvc` above sets the limit
    assert training.returncode == 0, output
    assert "epoch 2/2" in output
    assert output.count("warning: MLflow failed") == 1
    assert outs(project) == outs(whole())
    with serving(f"{address}/health", *server, log=tmp_path / "log"):
        sync = [sys.executable, "-m", "tuwen.cli", "track", "sync"]
        smoke.run(project, *sync, TUWEN_TRACKING_URI=address)
        client = MlflowClient(tracking_uri=address)
        experiment = client.get_experiment_by_name("tuwen").experiment_id
        made = "tags.`tuwen.output_sha256` != '' and tags.`tuwen.out` = 'models/baseline'"
        (resynced,) = client.search_runs([experiment], filter_string=made)
        losses = [
            (metric.step, metric.value) for metric in client.get_metric_history(resynced.info.run_id, "loss")
        ]
        found = client.search_runs([experiment], "tags.`tuwen.out` = 'models/baseline'")
    assert resynced.info.status == "FINISHED"
    records = json.loads((project / "models/baseline/training.json").read_text())["epochs"]
    assert losses == [(record["epoch"], record["loss"]) for record in records]
    # the other is the one whose server went away
    assert sorted(run.info.status for run in found) == ["FAILED", "FINISHED"]


STAGES = """\
stages:
  baseline:
    cmd: echo baseline >> ran.txt && echo here > started && cat gate > model.txt
    meta: {gpu: true}
    outs: [model.txt]
  measure:
    cmd: echo measure >> ran.txt && cp model.txt measured.txt
    deps: [model.txt]
    outs: [measured.txt]
"""


class Flow:
    """The pipeline's flow in a small repository of its own, whose first stage waits for a write to `gate`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder / "repository", folder / "prefect"
        (self.port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{self.port}/api"
        self.settings = {"PREFECT_API_URL": self.address, "PREFECT_HOME": str(self.home), "PYTHONPATH": str(ROOT)}
        self.server_log = folder / "server.log"
        self.processes: list[subprocess.Popen[str]] = []
        (self.folder / ".dvc").mkdir(parents=True)
        (self.folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
        (self.folder / "params.yaml").write_text("{}\n")
        (self.folder / "dvc.yaml").write_text(STAGES)
        for name in ("started", "gate"):
            os.mkfifo(self.folder / name)

    def server(self) -> AbstractContextManager[None]:
        command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        return serving(f"{self.address}/health", *command, log=self.server_log, **self.settings)

    def start(self, **environment: str) -> "subprocess.Popen[str]":
        self.processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "flows.pipeline"],
                cwd=self.folder,
                env=smoke.environment(**(self.settings | environment)),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return self.processes[-1]

    def wait_for_the_stage(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        source = os.open(self.folder / "started", os.O_RDONLY | os.O_NONBLOCK)
        while not select.select([source], [], [], 0.5)[0]:
            assert self.processes[-1].poll() is None, self.processes[-1].communicate()[0]
            assert time.monotonic() < deadline, "the first stage never ran"
        os.close(source)

    def ran(self) -> list[str]:
        return (self.folder / "ran.txt").read_text().split()


@pytest.fixture
def flow(tmp_path: Path) -> Iterator[Flow]:
    flow = Flow(tmp_path)
    yield flow
    for process in flow.processes:
        if process.poll() is None:  # the test failed before its end
            process.terminate()  # it takes all that it started with it
            process.communicate(timeout=240)  # reads: a full pipe would hold it


def test_a_flow_goes_on_after_its_server_was_restarted(flow: Flow) -> None:
    with flow.server():
        process = flow.start()
        flow.wait_for_the_stage()
    with flow.server():
        (flow.folder / "gate").write_text("权重")
        output, _ = process.communicate(timeout=RUN_SECONDS)
        assert process.returncode == 0, output
        assert flow.ran() == ["baseline", "measure"]
        assert read_states(flow) == {"pipeline": "Completed", "baseline": "Completed", "measure": "Completed"}


def test_a_flow_whose_server_stays_away_runs_its_stages_and_ends_with_a_message(flow: Flow) -> None:
    with flow.server():
        # Prefect would try five times, for four minutes; with none, one slow answer at the start would end it.
        process = flow.start(PREFECT_CLIENT_MAX_RETRIES="2")
        flow.wait_for_the_stage()
    (flow.folder / "gate").write_text("权重")
    output, _ = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 1
    assert f"\nerror: Prefect's server at {flow.address} does not answer" in output
    assert "│" not in output  # typer's traceback of an uncaught exception
    assert flow.ran() == ["baseline", "measure"]  # no stage needs the server
    with flow.server():
        (flow.folder / "gate").unlink()  # if the first stage ran again, it would wait for this file for ever
        again = flow.start()
        output, _ = again.communicate(timeout=RUN_SECONDS)
        assert again.returncode == 0, output
    assert flow.ran() == ["baseline", "measure"]
    assert (flow.folder / "measured.txt").read_text() == "权重"


def test_a_flow_whose_own_server_was_killed_says_so(flow: Flow) -> None:
    process = flow.start(PREFECT_API_URL="", PREFECT_CLIENT_MAX_RETRIES="2")
    flow.wait_for_the_stage()
    for child in psutil.Process(process.pid).children(recursive=True):
        if "prefect.server.api.server:create_app" in child.cmdline():
            child.kill()
    (flow.folder / "gate").write_text("权重")
    output, _ = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 1
    assert "\nerror: the flow's own server does not answer" in output
    assert "│" not in output


def test_a_server_that_is_not_there_is_one_line(flow: Flow) -> None:
    output, _ = flow.start().communicate(timeout=RUN_SECONDS)
    lines = [line for line in output.splitlines() if line]
    assert [
        line.startswith(f"error: PREFECT_API_URL: no Prefect server answers at {flow.address}") for line in lines
    ] == [True]


def read_states(flow: Flow) -> dict[str, str]:
    """Return name -> state of the flow's run and of its tasks' runs, as the server has them."""
    by_name = {}
    for kind in ("flow_runs", "task_runs"):
        request = urllib.request.Request(
            f"{flow.address}/{kind}/filter", b"{}", {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            for run in json.load(answer):
                by_name["pipeline" if kind == "flow_runs" else run["name"]] = run["state_name"]
    return by_name
