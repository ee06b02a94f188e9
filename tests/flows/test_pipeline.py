"""The flow on a small real DVC repository: what runs, in which order, what a failure stops."""

import subprocess
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.states import Failed

from flows.cards import count_wanted
from flows.pipeline import pipeline
from flows.repro import is_transient, plan, read_graph
from tests.support.checkout import ROOT
from tests.support.flows import ALL, ran, write_stages

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dvc's, mlflow's and prefect's own


def run_here(*stages: str, preset: str = "sample", force: bool = False) -> Any:
    return pipeline(preset, list(stages), force, return_state=True)


def tasks_of(state: Any) -> dict[str, str]:
    """Task name -> state, of one flow run."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        return {run.name: run.state_name for run in client.read_task_runs(flow_run_filter=wanted)}


def in_any_order(stages: list[str], first: int) -> list[str]:
    """The same with what follows the first ones sorted: stages that overlap."""
    return [*stages[:first], *sorted(stages[first:])]


def test_all_stages_run_once_in_graph_order(server: None, project: Path) -> None:
    state = run_here()
    assert state.is_completed()
    done = ran()
    assert sorted(done) == sorted(ALL)
    assert done.index("words") < done.index("baseline") < done.index("measure left")
    assert tasks_of(state) == dict.fromkeys(
        ["words", "baseline", "measure@left", "measure@right", "other"], "Completed"
    )
    assert subprocess.run(["dvc", "status", "--json"], capture_output=True, check=True).stdout.strip() == b"{}"
    again = run_here()
    assert again.is_completed()
    assert ran() == []
    assert tasks_of(again) == {}


def test_a_chosen_stage_brings_its_ancestors_and_nothing_else(server: None, project: Path) -> None:
    state = run_here("measure@left")
    assert list(ran()) == ["words", "baseline", "measure left"]
    assert sorted(tasks_of(state)) == ["baseline", "measure@left", "words"]
    assert run_here("measure").is_completed()
    assert ran() == ["measure right"]


def test_a_changed_param_reruns_its_stage_and_what_follows(server: None, finished: Path) -> None:
    Path("params.yaml").write_text("words: 一只白猫\nunused: 1\n", encoding="utf-8")
    assert sorted(tasks_of(run_here())) == ["baseline", "measure@left", "measure@right", "words"]
    assert in_any_order(ran(), 2) == ["words", "baseline", "measure left", "measure right"]


def test_a_stage_whose_upstream_made_the_same_again_is_left_to_dvc(server: None, finished: Path) -> None:
    write_stages("true && cp words.txt model.txt")
    assert "measure@left" in tasks_of(run_here())
    assert ran() == ["baseline"]


def test_force_reruns_the_chosen_stages_alone(server: None, finished: Path) -> None:
    assert run_here("baseline", force=True).is_completed()
    assert ran() == ["baseline"]


def test_a_failed_stage_ends_the_flow_and_its_descendants_do_not_run(server: None, project: Path) -> None:
    write_stages("echo 显存不足 && exit 3")
    state = run_here("measure")
    assert state.is_failed()
    assert "baseline" in state.message
    assert "显存不足" in state.message
    assert ran() == ["words", "baseline"]  # a fault of its own is not tried again
    assert tasks_of(state) == {"words": "Completed", "baseline": "Failed"}
    write_stages("cp words.txt model.txt")
    assert run_here("measure").is_completed()
    assert in_any_order(ran(), 1) == ["baseline", "measure left", "measure right"]


def test_a_stage_whose_process_was_killed_is_tried_once_more(server: None, project: Path) -> None:
    write_stages("if [ -e second ]; then cp words.txt model.txt; else touch second; kill -9 $$; fi")
    assert run_here("baseline").is_completed()
    assert ran() == ["words", "baseline", "baseline"]


@pytest.mark.parametrize(
    ("message", "again"),
    [
        ("failed to run: python -m stages.finetune, exited with -9", True),
        ("failed to run: python -m stages.finetune, exited with 137", True),  # a shell's word for the same
        ("failed to run: python -m stages.finetune, exited with 1", False),
        ("ERROR: Unable to acquire lock.", True),
    ],
)
def test_what_is_tried_once_more(message: str, again: bool) -> None:
    assert is_transient(None, None, Failed(message=message)) is again


def test_an_unknown_stage_is_named_with_the_known_ones(server: None, project: Path) -> None:
    state = run_here("finetnue")
    assert state.is_failed()
    assert "'finetnue'" in state.message
    assert "measure@left" in state.message
    assert ran() == []


def test_a_broken_graph_is_a_message(server: None, project: Path) -> None:
    Path("dvc.yaml").write_text("stages: {words: {outs: [words.txt]}}\n")
    state = run_here()
    assert state.is_failed()
    assert "dvc.yaml" in state.message


def test_a_preset_runs_in_its_own_worktree_with_the_shared_cache(server: None, project: Path) -> None:
    Path("presets").mkdir()
    Path("presets/black.yaml").write_text("words: 一只黑猫\nunused: 0\n", encoding="utf-8")
    Path(".gitignore").write_text("/.worktrees\n/.dvc/cache\n/.dvc/tmp\n/*.txt\n")
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "s"],
    ):
        subprocess.run(["git", *command], check=True)
    assert run_here("words").is_completed()
    before = len(cached())
    assert run_here("words", preset="black").is_completed()
    own = Path(".worktrees/black")
    assert "黑猫" in (own / "words.txt").read_text(encoding="utf-8")
    assert "橘猫" in Path("words.txt").read_text(encoding="utf-8")
    assert len(cached()) == before + 1
    assert not (own / ".dvc/cache/files").exists()
    missing = run_here(preset="white")
    assert missing.is_failed()
    assert "presets/white.yaml" in missing.message


def cached() -> list[Path]:
    return [path for path in Path(".dvc/cache/files").rglob("*") if path.is_file()]


def test_the_form_offers_the_presets_and_stages_that_there_are() -> None:
    form = pipeline.parameters.properties
    assert form["preset"]["enum"] == sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))
    assert form["stages"]["items"]["enum"] == sorted(path.stem for path in (ROOT / "stages").glob("[!_]*.py"))
    assert form["force"]["type"] == "boolean"
    assert all(len(field["description"]) > 30 for field in form.values())
    assert pipeline.parameters.required == []


def test_the_stages_that_compute_on_a_gpu_take_a_card_and_no_other_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUWEN_GPUS", "8")
    wanted: dict[int, set[str]] = {}
    for stage, gpu in read_graph(ROOT).nodes(data="gpu"):
        wanted.setdefault(count_wanted(gpu), set()).add(stage.partition("@")[0])
    assert wanted == {
        8: {"baseline", "finetune", "refit", "rerank"},
        1: {"embed", "evaluate", "index", "predict", "report"},
        0: {"ingest", "corpus", "validate", "augment"},
    }


def test_augment_takes_a_card_where_it_translates(tmp_path: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("kind: none}", "kind: marian}"), encoding="utf-8")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    assert count_wanted(read_graph(tmp_path).nodes["augment"]["gpu"]) == 1


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
