"""Is this checkout's model worse than a revision's?    python -m flows.reevaluate [--base REV] [--preset NAME]

The gate of a pull request; it evaluates and never trains. Exit codes: 0 not worse, 1 worse, 2 not comparable,
3 the model was not rebuilt, 4 the gate itself failed. runs/reevaluate.md gives the reasons, for a comment on the
pull request.
"""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import networkx as nx
import typer
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.utilities.slugify import slugify

from flows.edited_outs import refuse_edited_outs
from flows.gate.fetch import plan_with_absent
from flows.gate.versions import describe_versions, read_recorded_versions
from flows.pipeline import Preset, call_on_server, show
from flows.repro import read_graph, select_stages
from flows.schedule import run_stages
from flows.show import plain, table
from tuwen.core.errors import UserError
from tuwen.core.params import Params, load_params
from tuwen.core.versions import require_versions
from tuwen.core.worktree import make_worktree
from tuwen.tracking import revision

# What is shipped, models/final, is a copy of this model, or a refit that has seen the test split.
MODEL = "finetuned"
# Model -> the stage that trains it, which is stale whenever a stage above it is; a refit is not measured.
TRAININGS = {MODEL: "finetune", "reranked": "rerank"}
RESULTS, TEST = Path("results"), Path("data/clean/test")
RANKS_NAME = "ranks.parquet"
LOCK_FILE = Path("dvc.lock")
TEST_TABLES = tuple(TEST / f"{name}.parquet" for name in ("images", "texts", "pairs"))
BASE = Path("runs/base")  # the files fetched from the base
PAGE = Path("runs/reevaluate.md")

NOT_WORSE, WORSE, NOT_COMPARABLE = "Not worse", "Worse", "Not comparable"
NOT_REBUILT, FAILED = "Model not rebuilt", "Failed"
EXIT_CODES = {WORSE: 1, NOT_COMPARABLE: 2, NOT_REBUILT: 3, FAILED: 4}


class ComparedModel(NamedTuple):
    """What the gate found of one model: why it is worse, a sentence for each reason, and the table as Markdown."""

    faults: list[str]
    table: str


class GateResult(NamedTuple):
    """The name of the flow's state, and the reasons as Markdown; the first paragraph is the state's message."""

    name: str
    why: str


@flow(name="reevaluate", flow_run_name="{preset} against {base}", persist_result=False)
def reevaluate(base: str = "origin/main", preset: Preset = "sample") -> State[None]:
    """Compare the recall of this checkout's model with a revision's, query by query; fail where it is worse.

    Embeddings and evaluation are brought up to date; a model that dvc.yaml would train anew is refused, unless
    nothing but versions of packages would: it is then judged as it is, embedded and evaluated with the new ones.

    Args:
        base: The git revision to compare with; its ranks must be in DVC's cache or remote.
        preset: A file in presets/. "sample" compares this checkout with its params.yaml as it is, every other
            preset its own git worktree.
    """
    PAGE.unlink(missing_ok=True)  # an older one must not pass for this run's
    try:
        require_versions()  # or the base's own figures would be compared with themselves, and nothing would say so
        folder = make_worktree(preset)
        refuse_edited_outs(folder)
        result = run_gate(base, folder)
    except UserError as error:
        result = GateResult(FAILED, str(error))
    show(partial(create_markdown_artifact, write_gate_page(result), key=slugify(f"reevaluate-{preset}")))
    lead = result.why.partition("\n\n")[0]
    return Completed(message=lead) if result.name == NOT_WORSE else Failed(name=result.name, message=lead)


def write_gate_page(result: GateResult) -> str:
    """Write the page for the pull request; return its text."""
    text = f"## Re-evaluation: {result.name.lower()}\n\n{result.why}\n"
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    return text


def run_gate(base: str, folder: Path) -> GateResult:
    """Compare the model in `folder` with the revision `base`. Raises UserError when evaluating it fails."""
    from tuwen.evaluation.compare import require_same_test

    graph, params = read_graph(folder), load_params(folder / "params.yaml")
    models = [MODEL, *(["reranked"] if params.rerank else [])]
    targets, trainings = [f"evaluate@{model}" for model in models], [TRAININGS[model] for model in models]
    stale, outdated = plan_with_absent(graph, targets, folder, also=[str(TEST)], never=trainings)
    if not stale.keys().isdisjoint(trainings):
        return GateResult(NOT_REBUILT, _not_rebuilt(stale))
    try:
        fetch_base(base, folder, models)
        require_same_test(folder / BASE / TEST, folder / TEST)
    except UserError as error:
        return GateResult(NOT_COMPARABLE, str(error))
    run_stages(graph, stale, folder)
    try:
        compared = [compare_model(model, folder, params) for model in models]
    except UserError as error:
        return GateResult(NOT_COMPARABLE, str(error))
    faults = [fault for one in compared for fault in one.faults]
    lead = "\n".join(f"- {fault}" for fault in faults) or f"No R@5 fell, beyond chance or the limit, from {base}."
    trained = set(trainings).union(*(nx.ancestors(graph, stage) for stage in trainings))
    measuring = select_stages(graph, targets)[1] - trained
    locks = ((place / LOCK_FILE).read_text(encoding="utf-8") for place in (folder / BASE, folder))
    before, after = (read_recorded_versions(lock, measuring) for lock in locks)
    notes = describe_versions(before, after, list(stale), outdated)
    tables = [one.table for one in compared]
    why = "\n\n".join([lead, *notes, *tables, _legend(base, folder, models, params)])
    return GateResult(WORSE if faults else NOT_WORSE, why)


def compare_model(model: str, folder: Path, params: Params) -> ComparedModel:
    """Compare one model of this checkout with the base's, as fetched. Raises UserError as `compare_ranks`."""
    from tuwen.evaluation.compare import compare_ranks, find_regressions, format_changes
    from tuwen.evaluation.models import MODELS

    ranks = RESULTS / model / RANKS_NAME
    if not has_rows(folder / BASE / ranks):
        return ComparedModel([], f"The base has no {MODELS[model].title} model, so this one is not compared.")
    changes = compare_ranks(folder / BASE / ranks, folder / ranks, params.evaluate)
    faults, table = find_regressions(changes, params.gate.max_drop_points), format_changes(changes)
    if model == MODEL:
        return ComparedModel(faults, table)
    title = MODELS[model].title
    return ComparedModel([f"{title}: {fault}" for fault in faults], f"The {title} model:\n\n{table}")


def has_rows(ranks: Path) -> bool:
    """Whether a model was measured: a re-ranker that is switched off has an empty table, older code has none."""
    import pyarrow.parquet as pq

    return ranks.is_file() and pq.read_metadata(ranks).num_rows > 0


def fetch_base(base: str, folder: Path, models: Sequence[str]) -> None:
    """Fetch the base's ranks, test tables and dvc.lock into `BASE`, as `dvc get --rev` does.

    models: whose ranks; a base of older code may lack those of all but the first. Raises UserError when git does
    not know the revision, or cache and remote lack its files.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    first, *others = (RESULTS / model / RANKS_NAME for model in models)
    path = first
    shutil.rmtree(folder / BASE, ignore_errors=True)
    try:
        with contextlib.closing(DVCFileSystem(str(folder.absolute()), rev=base)) as files:
            known = [other for other in others if files.exists(str(other))]
            for path in (first, *known, *TEST_TABLES, LOCK_FILE):
                fetched = folder / BASE / path
                fetched.parent.mkdir(parents=True, exist_ok=True)
                # Not get_file: it may hard-link into the cache, and a second call would empty the cached file.
                fetched.write_bytes(files.read_bytes(str(path)))
    except (DvcException, OSError) as error:
        raise UserError(
            f"base {base}: {path} cannot be had ({error}); give a revision that git knows and whose dvc.lock "
            "records a run of this preset that was pushed: `git fetch`, and there `dvc repro` and `dvc push`"
        ) from error


def _not_rebuilt(stale: Mapping[str, str]) -> str:
    rows = table(("stage", "why it must run"), [(stage, plain(why)) for stage, why in stale.items()])
    return (
        "The recorded model is not the one that these settings, data and code make, and this gate never trains. "
        "Run `dvc repro` where training belongs, then commit `dvc.lock` and `dvc push`. Where only outs are "
        "modified, `dvc checkout` brings this commit's; where they are not in cache, they were not pushed to a "
        f"remote that this checkout knows (`dvc remote list`).\n\n{rows}"
    )


def _legend(base: str, folder: Path, models: Sequence[str], params: Params) -> str:
    head, before = (_git(folder, "rev-parse", "--short", f"{name}^{{commit}}") for name in ("HEAD", base))
    dirty = " with uncommitted code" if _git(folder, "status", "--porcelain", "--", *revision.CODE) else ""
    return (
        f"Head {head}{dirty}, base {before} ({base}): the {' and the '.join(models)} model on the test split, "
        "hit@k in percent. In brackets the paired 95 % bootstrap interval by group "
        f"({params.evaluate.bootstrap_samples} samples). R@5 "
        "of each direction decides: worse where the whole interval lies below 0, or where the drop is over "
        f"{params.gate.max_drop_points:g} points."
    )


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.strip()


def main(
    base: Annotated[str, typer.Option(help="The git revision to compare with.")] = "origin/main",
    preset: Annotated[str, typer.Option(help="A file in presets/, without .yaml.")] = "sample",
) -> None:
    """Compare two models by their recall, on a Prefect server of its own unless PREFECT_API_URL names one."""
    try:
        state = call_on_server(lambda: reevaluate(base, preset, return_state=True))
    except UserError as error:
        write_gate_page(GateResult(FAILED, str(error)))
        state = Failed(name=FAILED)
    if PAGE.exists():
        print(PAGE.read_text(encoding="utf-8"))
    sys.exit(0 if state.is_completed() else EXIT_CODES.get(state.name or FAILED, EXIT_CODES[FAILED]))


if __name__ == "__main__":
    typer.run(main)
