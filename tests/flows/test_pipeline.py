"""The flow on a small real DVC repository: what runs, in which order, what a failure stops, what a kill leaves."""

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import psutil
import pytest
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from flows.pipeline import pipeline
from flows.repro import GPU_LIMIT, plan

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dvc's, mlflow's and prefect's own

ROOT = Path(__file__).parents[2]
END_SECONDS = 15  # a cancelled flow and all it started are gone within this

# Every stage notes in ran.txt (no out of DVC's) that it really ran.
STAGES = """\
stages:
  words:
    cmd: echo words >> ran.txt && cp params.yaml words.txt
    params: [words]
    outs: [words.txt]
  baseline:
    cmd: echo baseline >> ran.txt && {baseline}
    deps: [words.txt]
    outs: [model.txt]
  judge:
    foreach: [left, right]
    do:
      cmd: echo judge ${{item}} >> ran.txt && cat model.txt > ${{item}}.txt
      deps: [model.txt]
      outs: ["${{item}}.txt"]
  other:
    cmd: echo other >> ran.txt && echo 另外 > other.txt
    outs: [other.txt]
"""
Start = Callable[..., subprocess.Popen[str]]
ALL = ["words", "baseline", "judge left", "judge right", "other"]

# A stage whose process has a child in a session of its own, says who both are, and then waits for ever.
STUBBORN = """\
import os, pathlib, signal, subprocess, sys
if pathlib.Path("go").exists():
    sys.exit()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
with open("started", "w") as fifo:
    fifo.write(f"{os.getpid()} {child.pid}")
signal.pause()
"""


@pytest.fixture(scope="session")
def server() -> Iterator[None]:
    """One Prefect server for all tests of this file."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def project(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository in which nothing has run; the test's current directory."""
    folder = make_repository(tmp_path / "repository")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def repository_up_to_date(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_repository(tmp_path_factory.mktemp("finished") / "repository")
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=folder, check=True)
    (folder / "ran.txt").unlink()
    return folder


@pytest.fixture
def finished(repository_up_to_date: Path, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository in which all is up to date; the test's current directory."""
    folder = tmp_path / "repository"
    shutil.copytree(repository_up_to_date, folder)
    monkeypatch.chdir(folder)
    return folder


def make_repository(folder: Path) -> Path:
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (folder / "params.yaml").write_text("words: 一只橘猫\nunused: 0\n", encoding="utf-8")
    write_stages("cp words.txt model.txt", folder)
    return folder


def write_stages(baseline: str, folder: Path = Path()) -> None:
    (folder / "dvc.yaml").write_text(STAGES.format(baseline=baseline), encoding="utf-8")


def ran() -> list[str]:
    """What ran since the last call."""
    path = Path("ran.txt")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def run_here(*stages: str, force: bool = False) -> Any:
    return pipeline(list(stages) or None, force, return_state=True)


def tasks_of(state: Any) -> dict[str, str]:
    """Task name -> state, of one flow run."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        return {run.name: run.state_name for run in client.read_task_runs(flow_run_filter=wanted)}


@pytest.fixture
def start() -> Iterator[Start]:
    """`python -m COMMAND` as a process of its own, on the tests' server unless `environment` says otherwise."""
    started = []

    def start_one(*command: str, **environment: str) -> subprocess.Popen[str]:
        address = {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", *command],
                env=os.environ | address | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start_one
    for process in started:
        if process.poll() is None:  # the test failed before its end
            process.terminate()
            process.wait(END_SECONDS)


def test_all_stages_run_once_in_graph_order(server: None, project: Path) -> None:
    state = run_here()
    assert state.is_completed()
    done = ran()
    assert sorted(done) == sorted(ALL)
    assert done.index("words") < done.index("baseline") < done.index("judge left")
    assert tasks_of(state) == dict.fromkeys(
        ["words", "baseline", "judge@left", "judge@right", "other"], "Completed"
    )
    assert subprocess.run(["dvc", "status", "--json"], capture_output=True, check=True).stdout.strip() == b"{}"
    again = run_here()
    assert again.is_completed()
    assert ran() == []
    assert tasks_of(again) == {}


def test_a_chosen_stage_brings_its_ancestors_and_nothing_else(server: None, project: Path) -> None:
    state = run_here("judge@left")
    assert list(ran()) == ["words", "baseline", "judge left"]
    assert sorted(tasks_of(state)) == ["baseline", "judge@left", "words"]
    assert run_here("judge").is_completed()
    assert ran() == ["judge right"]


def test_a_changed_param_reruns_its_stage_and_what_follows(server: None, finished: Path) -> None:
    Path("params.yaml").write_text("words: 一只白猫\nunused: 1\n", encoding="utf-8")
    assert sorted(tasks_of(run_here())) == ["baseline", "judge@left", "judge@right", "words"]
    assert ran() == ["words", "baseline", "judge left", "judge right"]


def test_a_stage_whose_upstream_made_the_same_again_is_left_to_dvc(server: None, finished: Path) -> None:
    write_stages("true && cp words.txt model.txt")
    assert "judge@left" in tasks_of(run_here())
    assert ran() == ["baseline"]


def test_force_reruns_the_chosen_stages_alone(server: None, finished: Path) -> None:
    assert run_here("baseline", force=True).is_completed()
    assert ran() == ["baseline"]


def test_a_failed_stage_ends_the_flow_and_its_descendants_do_not_run(server: None, project: Path) -> None:
    write_stages("echo 显存不足 && exit 3")
    state = run_here("judge")
    assert state.is_failed()
    assert "baseline" in state.message
    assert "显存不足" in state.message
    assert ran() == ["words", "baseline"]  # a fault of its own is not tried again
    assert tasks_of(state) == {"words": "Completed", "baseline": "Failed"}
    write_stages("cp words.txt model.txt")
    assert run_here("judge").is_completed()
    assert ran() == ["baseline", "judge left", "judge right"]


def test_a_stage_whose_process_was_killed_is_tried_once_more(server: None, project: Path) -> None:
    write_stages("if [ -e second ]; then cp words.txt model.txt; else touch second; kill -9 $$; fi")
    assert run_here("baseline").is_completed()
    assert ran() == ["words", "baseline", "baseline"]


def test_an_unknown_stage_is_named_with_the_known_ones(server: None, project: Path) -> None:
    state = run_here("finetnue")
    assert state.is_failed()
    assert "'finetnue'" in state.message
    assert "judge@left" in state.message
    assert ran() == []


def test_a_broken_graph_is_a_message(server: None, project: Path) -> None:
    Path("dvc.yaml").write_text("stages: {words: {outs: [words.txt]}}\n")
    state = run_here()
    assert state.is_failed()
    assert "dvc.yaml" in state.message


def test_a_stage_for_the_gpu_holds_it(server: None, project: Path, start: Start) -> None:
    os.mkfifo("started")
    os.mkfifo("gate")
    write_stages("echo here > started && cat gate > model.txt")
    flow = start("flows.pipeline", "baseline")
    assert read_when_written("started") == "here\n"
    with get_client(sync_client=True) as client:
        held = client.read_global_concurrency_limit_by_name(GPU_LIMIT)
    Path("gate").write_text("权重")
    assert flow.wait(60) == 0
    assert (held.limit, held.active_slots) == (1, 1)
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots == 0


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_flow_leaves_no_process_of_its_stage(
    server: None, project: Path, start: Start, by: signal.Signals
) -> None:
    wait_for_ever_in_a_stage("words")
    flow = start("flows.pipeline", "baseline")
    started = descendants(flow)
    flow.send_signal(by)
    assert flow.wait(END_SECONDS) != 0
    assert psutil.wait_procs(started, timeout=END_SECONDS)[1] == []


def test_a_killed_flow_leaves_no_server_and_the_next_one_gets_the_gpu(
    project: Path, tmp_path: Path, start: Start
) -> None:
    own_server = {"PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path / "prefect")}
    wait_for_ever_in_a_stage("baseline")
    guard = start("flows.pipeline", "baseline", **own_server)
    started = descendants(guard)
    psutil.Process(guard.pid).children()[0].kill()  # what `python -m` started is the guard; this is the flow
    assert guard.wait(END_SECONDS) == 128 + signal.SIGKILL
    assert psutil.wait_procs(started, timeout=END_SECONDS)[1] == []
    Path("go").touch()
    output, _ = start("flows.pipeline", "baseline", **own_server).communicate(timeout=120)
    assert Path("model.txt").exists(), output
    assert ran() == ["words", "baseline"]


def read_when_written(fifo: str) -> str:
    """What a stage says of itself; an error when it says nothing for long."""
    source = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert select.select([source], [], [], 120)[0], f"nobody wrote to {fifo}"
    return os.read(source, 1000).decode()


def wait_for_ever_in_a_stage(stage: str) -> None:
    Path("stubborn.py").write_text(STUBBORN)
    os.mkfifo("started")
    path = Path("dvc.yaml")
    path.write_text(
        path.read_text(encoding="utf-8").replace(f"echo {stage} >", f"python stubborn.py && echo {stage} >")
    )


def descendants(flow: subprocess.Popen[str]) -> list[psutil.Process]:
    """All that `flow` has started once its stage runs, those in sessions of their own included."""
    own = read_when_written("started").split()
    return [*psutil.Process(flow.pid).children(recursive=True), *(psutil.Process(int(pid)) for pid in own)]


def test_the_plan_says_why() -> None:
    graph = nx.DiGraph([("ingest", "train"), ("train", "embed@a"), ("train", "embed@b"), ("ingest", "check")])
    status = {
        "ingest": [{"changed deps": {"params.yaml": {"source.concepts": "modified"}}}],
        "check": ["always changed"],
    }
    assert plan(graph, status, ["embed@a"], force=False) == {
        "ingest": "changed deps: params.yaml: source.concepts: modified",
        "train": "after ingest",
        "embed@a": "after train",
    }
    assert plan(graph, {}, ["embed"], force=True) == {"embed@a": "forced", "embed@b": "forced"}
    assert plan(graph, {"check": ["always changed"]}, [], force=False) == {"check": "always changed"}
    assert plan(graph, {}, [], force=False) == {}
