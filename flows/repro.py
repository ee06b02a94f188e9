"""One DVC stage as a Prefect task, and the plan of which stages get one. DVC alone knows what is up to date."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
from prefect import get_client, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.states import Failed

from flows import guard
from tuwen.errors import UserError

GPU_LIMIT = "gpu"
GPU_STAGES = ("augment", "baseline", "finetune", "refit", "embed")
LEASE_SECONDS = 60.0  # for so long a flow that was killed still holds the GPU
END_SECONDS = 12.0  # for the guard to end what it started; its own patience is shorter
# The process died of a signal (out of memory, a machine going down), or another dvc held what this one needs.
TRANSIENT = re.compile(r"exited with (-\d+|1[34]\d)\b|Unable to acquire lock|is busy, it is being")

Status = Mapping[str, Sequence[Any]]


def stage_graph() -> Any:
    """The repository's stages as a networkx.DiGraph; an edge leads from a stage to one that needs its outs."""
    from dvc.repo import Repo

    with Repo() as repo:
        return nx.relabel_nodes(repo.index.graph, lambda stage: stage.addressing).reverse()


def dvc_status() -> Status:
    """What differs from dvc.lock, by stage; that a stage's upstream will change what it reads is not seen."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise UserError(f"dvc status: {done.stderr.strip()}")
    status: Status = json.loads(done.stdout)
    return status


def plan(graph: Any, status: Status, stages: Sequence[str], force: bool) -> dict[str, str]:
    """Stage -> why it runs, in graph order; empty when all is up to date.

    stages: the chosen ones, none for all; a name such as `embed` stands for all of `embed@…`. Their ancestors are
    brought up to date too. force: the chosen ones run whether they changed or not.
    Raises UserError for a name that the graph lacks.
    """
    chosen = {stage for name in stages for stage in _named(graph, name)} or set(graph)
    wanted = chosen.union(*(nx.ancestors(graph, stage) for stage in chosen))
    reasons: dict[str, str] = {}
    for stage in nx.topological_sort(graph):
        upstream = [above for above in graph.predecessors(stage) if above in reasons]
        if stage not in wanted:
            continue
        if force and stage in chosen:
            reasons[stage] = "forced"
        elif stage in status:
            reasons[stage] = "; ".join(_describe(entry) for entry in status[stage])
        elif upstream:
            reasons[stage] = f"after {', '.join(upstream)}"
    return reasons


def _named(graph: Any, name: str) -> list[str]:
    found = [stage for stage in graph if stage == name or stage.startswith(f"{name}@")]
    if not found:
        raise UserError(f"stages: no stage {name!r}; dvc.yaml has {', '.join(sorted(graph))}")
    return found


def _describe(entry: Any) -> str:
    """{"changed deps": {"params.yaml": {"fit.lr": "modified"}}} -> changed deps: params.yaml: fit.lr: modified"""
    if isinstance(entry, Mapping):
        return ", ".join(f"{key}: {_describe(value)}" for key, value in entry.items())
    return str(entry)


def is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """May the very same stage succeed if it is tried again?"""
    return TRANSIENT.search(state.message or "") is not None


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=is_transient,
)
def bring_up_to_date(stage: str, force: bool = False) -> State[None] | None:
    """`dvc repro --single-item STAGE` in a child process; a stage for the GPU waits until it is free.

    A stage that fails gives a failed state that holds its last lines: a traceback of ours would tell nobody more.
    """
    # strict: a missing limit must not pass for a free one. A lost renewal must not end hours of work.
    gpu = concurrency(
        GPU_LIMIT, occupy=1, strict=True, raise_on_lease_renewal_failure=False, lease_duration=LEASE_SECONDS
    )
    with gpu if stage.partition("@")[0] in GPU_STAGES else contextlib.nullcontext():
        command = ["--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), stage]
        code, last_lines = _follow([sys.executable, "-m", "dvc", *command])
    return Failed(message=f"stage {stage}: dvc ended with exit code {code}\n{last_lines}") if code else None


def _follow(command: list[str]) -> tuple[int, str]:
    """Run `command`, its output line by line to the log; its exit code and last lines."""
    logger, last = get_run_logger(), deque[str](maxlen=20)
    with _guarded(command) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
            logger.info(last[-1])
        return process.wait(), "\n".join(last)


@contextlib.contextmanager
def _guarded(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process of its own session that ends, with all it started, when the block or this process does."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # dvc.yaml says `python`
        "PYTHONUNBUFFERED": "1",  # lines when they are printed, not when a pipe is full
    }
    process = subprocess.Popen(
        [sys.executable, guard.__file__, str(os.getpid()), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        guard.end_session(process.pid)
        process.wait()


def provide_gpu_limit() -> None:
    """Make the limit where it is missing. Raises UserError when it lets nobody through."""
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(GPU_LIMIT)
        except ObjectNotFound:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_LIMIT, limit=1))
            return
        if limit.limit < 1:
            raise UserError(
                f"Prefect: the limit {GPU_LIMIT!r} is 0; run `prefect gcl update {GPU_LIMIT} --limit 1`"
            )
        if limit.active_slots and not PREFECT_API_URL.value():
            # A server of our own lives as long as one flow and forgets its leases: what its database still holds
            # belongs to a flow that was killed, and nobody would ever give it back.
            client.update_global_concurrency_limit(GPU_LIMIT, GlobalConcurrencyLimitUpdate(active_slots=0))
