"""Plan which stages of DVC run, and run each as a Prefect task. DVC alone decides what is up to date."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.memory import explain_memory
from flows.watch import Children, StoppedError, watch
from tuwen.core.errors import UserError

# The process died of a signal (out of memory, a machine going down), or another dvc held what this one needs.
TRANSIENT = re.compile(r"exited with (-\d+|1[34]\d)\b|Unable to acquire lock|is busy, it is being")

HERE = Path(".")

Status = Mapping[str, Sequence[Any]]


def read_graph(folder: Path = HERE) -> Any:
    """Return the stages of dvc.yaml as a networkx.DiGraph; an edge leads from a stage to one that needs its outs.

    The attribute `gpu` of a stage is that of its `meta` in dvc.yaml; `cards.count_wanted` reads it.
    """
    from dvc.repo import Repo

    with Repo(folder) as repo:
        stages = repo.index.graph
        # not `addressing`, which names dvc.yaml too when it lies in another folder
        graph = nx.relabel_nodes(stages, lambda stage: stage.name).reverse()
        nx.set_node_attributes(graph, {stage.name: (stage.meta or {}).get("gpu") for stage in stages}, "gpu")
        return graph


def read_status(folder: Path = HERE) -> Status:
    """Return what differs from dvc.lock, by stage. Changes that stages above would still make are not foreseen."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise UserError(f"dvc status: {done.stderr.strip()}")
    status: Status = json.loads(done.stdout)
    return status


def plan(graph: Any, status: Status, stages: Sequence[str], force: bool) -> dict[str, str]:
    """Return stage -> why it runs, in graph order; empty when all is up to date.

    stages: the chosen ones, none for all; a name such as `embed` stands for all of `embed@…`. Their ancestors are
    brought up to date too. force: the chosen ones run whether they changed or not.
    Raises UserError for a name that the graph lacks.
    """
    chosen, wanted = select_stages(graph, stages)
    reasons: dict[str, str] = {}
    for stage in nx.topological_sort(graph):
        above = [name for name in graph.predecessors(stage) if name in reasons]
        if stage not in wanted:
            continue
        if force and stage in chosen:
            reasons[stage] = "forced"
        elif stage in status:
            reasons[stage] = "; ".join(_describe(entry) for entry in status[stage])
        elif above:
            reasons[stage] = f"after {', '.join(above)}"
    return reasons


def select_stages(graph: Any, names: Sequence[str]) -> tuple[set[str], set[str]]:
    """Return the stages of these names, all for none, and the same with their ancestors. Raises as `plan`."""
    chosen = {stage for name in names for stage in _match(graph, name)} or set(graph)
    return chosen, chosen.union(*(nx.ancestors(graph, stage) for stage in chosen))


def _match(graph: Any, name: str) -> list[str]:
    stages = [stage for stage in graph if stage == name or stage.startswith(f"{name}@")]
    if not stages:
        raise UserError(f"stages: no stage {name!r}; dvc.yaml has {', '.join(sorted(graph))}")
    return stages


def _describe(entry: Any) -> str:
    """Write {"changed deps": {"params.yaml": {"lr": "modified"}}} as: changed deps: params.yaml: lr: modified."""
    if isinstance(entry, Mapping):
        return ", ".join(f"{key}: {_describe(value)}" for key, value in entry.items())
    return str(entry)


def is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Whether the very same stage may succeed when it is tried again."""
    return TRANSIENT.search(state.message or "") is not None


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=is_transient,
)
def bring_up_to_date(
    stage: str,
    force: bool = False,
    folder: Path = HERE,
    *,
    trains: bool = False,
    children: Children | None = None,
    environment: Mapping[str, str] | None = None,
    locks: Sequence[int] = (),
) -> State[None] | None:
    """Run `dvc repro --single-item STAGE` in a child process.

    A stage that fails gives a failed state with its last lines; a traceback of this process would add nothing.
    trains: whether the advice is that for a training, where memory runs out. The others as `watch` takes them.
    """
    children = children or Children()
    command = ["--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), stage]
    try:
        code, last_lines = watch(
            [sys.executable, "-m", "dvc", *command],
            folder,
            stage,
            children=children,
            environment=environment,
            locks=locks,
        )
    except StoppedError:
        return Failed(message=f"stage {stage}: not started, the flow ends")
    if not code:
        return None
    if children.stopped:  # no fault of the stage, and nothing to try again
        return Failed(message=f"stage {stage}: ended with the flow")
    advice = explain_memory(last_lines, trains=trains)
    return Failed(message=f"stage {stage}: {advice}dvc ended with exit code {code}\n{last_lines}")
