"""The whole pipeline as a Prefect flow.    python -m flows.pipeline [STAGE ...] [--force]"""

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL
from prefect.states import Failed

from flows import guard
from flows.repro import bring_up_to_date, dvc_status, plan, provide_gpu_limit, stage_graph
from tuwen.errors import UserError


@flow(name="pipeline", persist_result=False)
def pipeline(stages: list[str] | None = None, force: bool = False) -> State[None] | None:
    """Bring DVC's stages up to date, one task each, then tie MLflow's runs to the outs and show the recall.

    stages: the ones to bring up to date, with their ancestors; none for all. force: run these whether they changed
    or not. The first stage that fails ends the flow; what stands keeps standing.
    """
    logger = get_run_logger()
    try:
        graph = stage_graph()
        reasons = plan(graph, dvc_status(), stages or [], force)
        if reasons:
            provide_gpu_limit()
    except UserError as error:
        return Failed(message=str(error))
    logger.info(
        "plan:\n%s", "\n".join(f"  {stage}: {why}" for stage, why in reasons.items()) or "  all up to date"
    )
    done: dict[str, State[Any]] = {}
    for stage, reason in reasons.items():
        above = [done[name] for name in graph.predecessors(stage) if name in done]
        done[stage] = bring_up_to_date(stage, reason == "forced", wait_for=above, return_state=True)
        if not done[stage].is_completed():
            return Failed(message=done[stage].message)
    show_results()
    return None


def show_results() -> None:
    """Refill MLflow and log the table of recall; neither decides whether the flow succeeded."""
    from tuwen.lineage import sync
    from tuwen.report import headline_table

    logger = get_run_logger()
    try:
        sync()
    except UserError as error:
        logger.warning(str(error))
    try:
        logger.info("recall:\n%s", headline_table(Path("results")))
    except UserError as error:
        logger.info("no table of recall: %s", error)


def main(
    stages: Annotated[list[str] | None, typer.Argument(help="Stages of dvc.yaml; none for all.")] = None,
    force: Annotated[bool, typer.Option(help="Run them whether they changed or not.")] = False,
) -> None:
    """Run the pipeline as a Prefect flow, on a server of its own unless PREFECT_API_URL names one."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # so that a server of its own is ended
    try:
        state = pipeline(stages, force, return_state=True)
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
