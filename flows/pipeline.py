"""The whole pipeline as a Prefect flow.    python -m flows.pipeline [STAGE ...] [--preset NAME] [--force]"""

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import httpx
import typer
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL
from prefect.states import Failed
from pydantic import WithJsonSchema

from flows import guard
from flows.repro import asked_for, dvc_status, plan, run_stages, stage_graph
from flows.show import show_mlflow, show_plan, show_results
from tuwen.core.errors import UserError
from tuwen.core.signals import exit_on_sigterm
from tuwen.core.worktree import make_worktree

CHECKOUT = Path(__file__).parents[1]


def one_of(pattern: str) -> WithJsonSchema:
    """For forms: a string that is the name of one of this checkout's files."""
    names = sorted(path.stem for path in CHECKOUT.glob(pattern))
    return WithJsonSchema({"type": "string", **({"enum": names} if names else {})})


Preset = Annotated[str, one_of("presets/*.yaml")]
Stage = Annotated[str, one_of("stages/[!_]*.py")]


@flow(name="pipeline", flow_run_name="{preset}", persist_result=False)
def pipeline(
    preset: Preset = "sample",
    stages: list[Stage] = [],  # noqa: B006 - never changed; a form takes a list, not a list or nothing
    force: bool = False,
) -> State[None] | None:
    """Bring DVC's stages up to date, one task each, then tie MLflow's runs to the outs and show the results.

    The first stage that fails ends the flow; what stands keeps standing, and the next run goes on from there.

    Args:
        preset: A file in presets/. "sample" runs this checkout with its params.yaml as it is, every other preset
            runs in a git worktree of its own, on the last commit and with the same cache.
        stages: The stages to bring up to date, with all that they need; none for all.
        force: Run these stages whether anything changed or not.
    """
    logger = get_run_logger()
    try:
        folder = make_worktree(preset)
        graph = stage_graph(folder)
        _, wanted = asked_for(graph, stages)
        reasons = plan(graph, dvc_status(folder), stages, force)
        said = "\n".join(f"  {stage}: {why}" for stage, why in reasons.items()) or "  all up to date"
        logger.info("plan:\n%s", said)
        show_plan(preset, graph, wanted, reasons)
        run_stages(graph, reasons, folder)
    except UserError as error:
        return Failed(message=str(error))
    finish(preset, folder)
    return None


def finish(preset: str, folder: Path) -> None:
    """Refill MLflow and show the results; none of it decides whether the flow succeeded."""
    from tuwen.tracking.lineage import sync

    for step in (sync, partial(show_results, preset), partial(show_mlflow, preset)):
        try:
            with contextlib.chdir(folder):
                step()
        except UserError as error:
            get_run_logger().warning(str(error))


def main(
    stages: Annotated[list[str] | None, typer.Argument(help="Stages of dvc.yaml; none for all.")] = None,
    preset: Annotated[str, typer.Option(help="A file in presets/, without .yaml.")] = "sample",
    force: Annotated[bool, typer.Option(help="Run them whether they changed or not.")] = False,
) -> None:
    """Run the pipeline as a Prefect flow, on a server of its own unless PREFECT_API_URL names one."""
    exit_on_sigterm()  # so that a server of its own is ended
    try:
        state = pipeline(preset, stages or [], force, return_state=True)
    except (httpx.TransportError, RuntimeError) as error:
        if not any(isinstance(one, httpx.TransportError) for one in (error, error.__cause__)):
            raise
        sys.exit(
            f"error: Prefect's server at {PREFECT_API_URL.value()} does not answer ({error}); the stages that "
            "ended stand: start it and run the flow again"
        )
    if not state.is_completed():
        sys.exit(f"error: {state.message}")


if __name__ == "__main__":
    guard.stand_between()
    typer.run(main)
