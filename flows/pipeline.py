"""Run the whole pipeline as a Prefect flow.    python -m flows.pipeline [STAGE ...] [--preset NAME] [--force]"""

import contextlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.states import Failed
from pydantic import WithJsonSchema

from flows.cards import hide_cards
from flows.deploy import require_server
from flows.edited_outs import refuse_edited_outs
from flows.repro import plan, read_graph, read_status, select_stages
from flows.schedule import run_stages
from flows.show import show_mlflow, show_plan, show_results
from flows.watch import SERVER_ERRORS
from tuwen.core.errors import UserError
from tuwen.core.worktree import make_worktree

CHECKOUT = Path(__file__).parents[1]
SERVER_PATIENCE = {
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 300
}  # a busy machine needs more than Prefect's 20 s


def list_choices(pattern: str) -> WithJsonSchema:
    """Return the schema of a string that names one of this checkout's files: a form shows them as a list."""
    names = sorted(path.stem for path in CHECKOUT.glob(pattern))
    return WithJsonSchema({"type": "string", **({"enum": names} if names else {})})


Preset = Annotated[str, list_choices("presets/*.yaml")]
Stage = Annotated[str, list_choices("stages/[!_]*.py")]


@flow(name="pipeline", flow_run_name="{preset}", persist_result=False)
def pipeline(
    preset: Preset = "sample",
    stages: list[Stage] = [],  # noqa: B006 - never changed; a form takes a list, not a list or None
    force: bool = False,
) -> State[None] | None:
    """Bring DVC's stages up to date, one task each, then tie MLflow's runs to the outs and show the results.

    The first stage that fails ends the flow; finished stages keep their outs, and the next run goes on from there.

    Args:
        preset: A file in presets/. "sample" runs this checkout with its params.yaml as it is, every other preset
            runs in a git worktree of its own, on the last commit and with the same cache.
        stages: The stages to bring up to date, with all that they need; none for all.
        force: Run these stages whether anything changed or not.
    """
    logger = get_run_logger()
    try:
        folder = make_worktree(preset)
        refuse_edited_outs(folder)
        graph = read_graph(folder)
        _, wanted = select_stages(graph, stages)
        reasons = plan(graph, read_status(folder), stages, force)
        lines = "\n".join(f"  {stage}: {why}" for stage, why in reasons.items()) or "  all up to date"
        logger.info("plan:\n%s", lines)
        show(partial(show_plan, preset, graph, wanted, reasons))
        run_stages(graph, reasons, folder)
    except UserError as error:
        return Failed(message=str(error))
    finish(preset, folder)
    return None


def finish(preset: str, folder: Path) -> None:
    """Make the runs that MLflow misses, show the results; a failure is a warning: the stages have succeeded."""
    from tuwen.tracking.lineage import sync

    with contextlib.chdir(folder), hide_cards():
        for step in (sync, partial(show_results, preset), partial(show_mlflow, preset)):
            show(step)


def show(step: Callable[[], object]) -> None:
    """Call what only shows something: no mistake in it and no answer that the server owes ends the flow."""
    try:
        step()
    except (UserError, *SERVER_ERRORS) as error:
        get_run_logger().warning("not shown: %s", error)


def call_on_server(call: Callable[[], State[Any]]) -> State[Any]:
    """Run a flow on the server that PREFECT_API_URL names, else on one of its own; return its last state.

    Raises UserError where the server does not answer, or not to the password at hand.
    """
    api, password = PREFECT_API_URL.value(), PREFECT_API_AUTH_STRING.value()
    if api:
        require_server(api, password or "")
    try:
        with temporary_settings(SERVER_PATIENCE):
            return call()
    except (httpx.HTTPError, RuntimeError) as error:
        if not any(isinstance(cause, httpx.HTTPError) for cause in (error, error.__cause__)):
            raise
        server, start = (f"Prefect's server at {api}", "start it and ") if api else ("the flow's own server", "")
        raise UserError(
            f"{server} does not answer ({error}); the stages that ended keep their outs: {start}run the flow again"
        ) from error


def main(
    stages: Annotated[list[str] | None, typer.Argument(help="Stages of dvc.yaml; none for all.")] = None,
    preset: Annotated[str, typer.Option(help="A file in presets/, without .yaml.")] = "sample",
    force: Annotated[bool, typer.Option(help="Run them whether they changed or not.")] = False,
) -> None:
    """Run the pipeline as a Prefect flow, on a server of its own unless PREFECT_API_URL names one."""
    try:
        state = call_on_server(lambda: pipeline(preset, stages or [], force, return_state=True))
    except UserError as error:
        sys.exit(f"error: {error}")
    if not state.is_completed():
        sys.exit(f"error: {state.message}")


if __name__ == "__main__":
    typer.run(main)
