"""Is this checkout's model worse than a revision's?    python -m flows.reevaluate [--base REV] [--preset NAME]

It evaluates and never trains. Exit codes: 0 not worse, 1 worse, 2 not comparable, 3 the model was not rebuilt,
4 it could not be found out. runs/reevaluate.md says why: the comment for a pull request.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import networkx as nx
import typer
from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import guard
from flows.repro import Status, bring_up_to_date, dvc_status, plan, provide_gpu_limit, stage_graph
from tuwen import track
from tuwen.errors import UserError
from tuwen.params import Params, load
from tuwen.worktree import worktree

# What is shipped, models/final, is a copy of this model, or a refit that has seen the test split.
MODEL = "finetuned"
EVALUATE = f"evaluate@{MODEL}"
TRAINING = ("baseline", "finetune", "refit")
RANKS, TEST = Path("results") / MODEL / "ranks.parquet", Path("data/clean/test")
TABLES = tuple(TEST / f"{name}.parquet" for name in ("images", "texts", "pairs"))
BASE = Path("runs/base")  # what is fetched of the base
PAGE = Path("runs/reevaluate.md")

NOT_WORSE, WORSE, NOT_COMPARABLE = "Not worse", "Worse", "Not comparable"
NOT_REBUILT, FAILED = "Model not rebuilt", "Failed"
CODES = {WORSE: 1, NOT_COMPARABLE: 2, NOT_REBUILT: 3, FAILED: 4}


class Verdict(NamedTuple):
    """The name of the flow's state, and why, as Markdown."""

    name: str
    why: str


@flow(name="reevaluate", persist_result=False)
def reevaluate(base: str = "origin/main", preset: str = "sample") -> State[None]:
    """Compare the recall of this checkout's model with a revision's, query by query; fail where it is worse.

    Embeddings and evaluation are brought up to date; a model that dvc.yaml would train anew is refused.

    Args:
        base: The git revision to compare with; its ranks must be in DVC's cache or remote.
        preset: A file in presets/; "sample" is this checkout with its params.yaml as it is.
    """
    page = PAGE.absolute()
    page.unlink(missing_ok=True)  # nobody shall take an older one for this one's
    try:
        with contextlib.chdir(worktree(preset)):
            verdict = judge(base)
    except UserError as error:
        verdict = Verdict(FAILED, str(error))
    text = f"## Re-evaluation: {verdict.name.lower()}\n\n{verdict.why}\n"
    page.parent.mkdir(exist_ok=True)
    page.write_text(text, encoding="utf-8")
    create_markdown_artifact(text, key="reevaluate")
    lead = verdict.why.partition("\n\n")[0]
    return Completed(message=lead) if verdict.name == NOT_WORSE else Failed(name=verdict.name, message=lead)


def judge(base: str) -> Verdict:
    """The verdict on the current directory's model. Raises UserError when evaluating it fails."""
    from tuwen.compare import compare, markdown, regressions, require_same_test

    graph = stage_graph()
    fetch_missing(graph, dvc_status())
    stale = plan(graph, dvc_status(), [EVALUATE], force=False)
    if any(stage in TRAINING for stage in stale):
        return Verdict(NOT_REBUILT, _not_rebuilt(stale))
    try:
        fetch_base(base)
        require_same_test(BASE / TEST, TEST)
    except UserError as error:
        return Verdict(NOT_COMPARABLE, str(error))
    evaluate(graph, stale)
    params = load()
    try:
        changes = compare(BASE / RANKS, RANKS, params.evaluate)
    except UserError as error:
        return Verdict(NOT_COMPARABLE, str(error))
    faults = regressions(changes, params.gate.max_drop_points)
    lead = "\n".join(f"- {fault}" for fault in faults) or f"No R@5 fell, beyond chance or the limit, from {base}."
    why = f"{lead}\n\n{markdown(changes)}\n\n{_legend(base, params)}"
    return Verdict(WORSE if faults else NOT_WORSE, why)


def fetch_missing(graph: Any, status: Status) -> None:
    """Fetch what dvc.lock records below `EVALUATE` but is not here, such as everything in a fresh clone.

    What cannot be had stays missing, and the plan will say so.
    """
    outs = []
    for stage in sorted({EVALUATE, *nx.ancestors(graph, EVALUATE)} & status.keys()):
        changes = (entry.get("changed outs", {}) for entry in status[stage] if isinstance(entry, Mapping))
        outs += [out for changed in changes for out in changed if not Path(out).exists()]
    if outs:
        get_run_logger().info("fetching %s", ", ".join(outs))
        guarded = [sys.executable, guard.__file__, str(os.getpid())]
        pull = [sys.executable, "-m", "dvc", "--wait-for-lock", "pull", *outs]
        done = subprocess.run([*guarded, *pull], capture_output=True, text=True, encoding="utf-8", check=False)
        if done.returncode != 0:
            get_run_logger().warning("dvc pull: %s", done.stderr.strip())


def fetch_base(base: str) -> None:
    """`dvc get --rev` of the base's ranks and test tables into `BASE`. Raises UserError for what cannot be had."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    path = RANKS
    try:
        with contextlib.closing(DVCFileSystem(rev=base)) as files:
            for path in (RANKS, *TABLES):
                (BASE / path).parent.mkdir(parents=True, exist_ok=True)
                files.get_file(str(path), str(BASE / path))
    except (DvcException, OSError) as error:
        raise UserError(
            f"base {base}: {path} cannot be had ({error}); give a revision that git knows, whose ranks were "
            "pushed: `git fetch`, and there `dvc repro` and `dvc push`"
        ) from error


def evaluate(graph: Any, stale: Mapping[str, str]) -> None:
    """Run the stale stages, none of which trains. Raises UserError with the last lines of one that fails."""
    if stale:
        provide_gpu_limit()
    done: dict[str, State[Any]] = {}
    for stage in stale:
        above = [done[name] for name in graph.predecessors(stage) if name in done]
        done[stage] = bring_up_to_date(stage, wait_for=above, return_state=True)
        if not done[stage].is_completed():
            raise UserError(done[stage].message or f"stage {stage} failed")


def _not_rebuilt(stale: Mapping[str, str]) -> str:
    lines = [
        "The recorded model is not the one that these settings, data and code make, and this gate never trains. "
        "Run `dvc repro` where training belongs, then commit `dvc.lock` and `dvc push`. Outs that are modified are "
        "another commit's: `dvc checkout`.",
        "",
        "| stage | why it must run |",
        "|---|---|",
        *(f"| {stage} | {why.replace('|', chr(92) + '|')} |" for stage, why in stale.items()),
    ]
    return "\n".join(lines)


def _legend(base: str, params: Params) -> str:
    head, before = (_short(revision) for revision in ("HEAD", base))
    dirty = " with uncommitted code" if track.is_dirty() else ""
    return (
        f"Head {head}{dirty}, base {before} ({base}): the {MODEL} model on the test split, hit@k in percent. In "
        f"brackets the paired 95 % bootstrap interval by group ({params.evaluate.bootstrap_samples} samples). R@5 "
        "of each direction decides: worse where the whole interval lies below 0, or where the drop is over "
        f"{params.gate.max_drop_points:g} points."
    )


def _short(revision: str) -> str:
    command = ["git", "rev-parse", "--short", f"{revision}^{{commit}}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main(
    base: Annotated[str, typer.Option(help="The git revision to compare with.")] = "origin/main",
    preset: Annotated[str, typer.Option(help="A file in presets/, without .yaml.")] = "sample",
) -> None:
    """Compare two models by their recall, on a Prefect server of its own unless PREFECT_API_URL names one."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # so that a server of its own is ended
    state = reevaluate(base, preset, return_state=True)
    if PAGE.exists():
        print(PAGE.read_text(encoding="utf-8"))
    sys.exit(0 if state.is_completed() else CODES.get(state.name or FAILED, CODES[FAILED]))


if __name__ == "__main__":
    guard.stand_between()
    typer.run(main)
