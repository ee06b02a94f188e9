"""Put the newest model into service: register, index, swap; undone where the service refuses it.

TUWEN_SEARCH_TOKEN=… python -m flows.publish [--preset NAME] [--service ADDRESS]
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import httpx
import typer
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.cards import hide_cards
from flows.edited_outs import refuse_edited_outs
from flows.pipeline import Preset, call_on_server
from flows.repro import plan, read_graph, read_status
from flows.schedule import run_stages
from tuwen.core.errors import UserError
from tuwen.core.params import load_params
from tuwen.core.worktree import make_worktree
from tuwen.data.formats.manifest import hash_path

STAGE, INDEX = "index", Path("index")
KEPT_INDEX = Path(".cache/publish/index")  # the index before, until the new one is in service
GALLERY = "bank"
TOKEN_VARIABLE = "TUWEN_SEARCH_TOKEN"
SERVICE_VARIABLE = "TUWEN_PUBLISH_SERVICE"  # of a worker: where the service is for it
SERVICE = "http://127.0.0.1:8080"  # of `make search`
SWAP_SECONDS = 600.0  # for the service to load model and index


@flow(name="publish", flow_run_name="{preset}", persist_result=False)
def publish(preset: Preset = "sample", service: str = "") -> State[None]:
    """Register the model, make its index, and let the search service take both; set all back where it refuses.

    Nothing is trained: where more than the index is out of date, the run fails and says so. A model that does not
    beat the champion is registered as the challenger, and the service stays as it is.

    Args:
        preset: A file in presets/, whose model is published.
        service: The address of the search service. Empty: the one of the worker's TUWEN_PUBLISH_SERVICE, or
            http://127.0.0.1:8080. The worker's TUWEN_SEARCH_TOKEN is its token.
    """
    try:
        folder = make_worktree(preset)
        refuse_edited_outs(folder)
        with keep_index(folder) as index:
            make_index(folder)
            return Completed(message=swap_model(folder, locate_service(service, os.environ), index))
    except UserError as error:
        return Failed(message=str(error))


def locate_service(service: str, environment: Mapping[str, str]) -> str:
    """Return the address of the search service: the one given, the environment's, or that of `make search`."""
    return service or environment.get(SERVICE_VARIABLE) or SERVICE


def make_index(folder: Path) -> None:
    """Bring the stage `index` up to date. Raises UserError where any other would have to run, or it fails."""
    graph = read_graph(folder)
    reasons = plan(graph, read_status(folder), [STAGE], force=False)
    if others := [f"{stage}: {why}" for stage, why in reasons.items() if stage != STAGE]:
        stale = "\n".join(others)
        raise UserError(
            f"the model is not up to date, and publishing never trains; run the pipeline first:\n{stale}"
        )
    get_run_logger().info("index: %s", reasons.get(STAGE, "up to date"))
    run_stages(graph, reasons, folder)


@contextlib.contextmanager
def keep_index(folder: Path) -> Iterator["IndexCopy"]:
    """Keep the index that stands for the time of the block, and put it back where the block fails or is cancelled.

    It is kept as hard links: the stage makes new files.
    """
    copy = IndexCopy(folder / INDEX, folder / KEPT_INDEX)
    copy.make()
    try:
        yield copy
    except BaseException:
        copy.restore()
        raise
    finally:
        shutil.rmtree(copy.kept, ignore_errors=True)


class IndexCopy:
    """An index as it stood."""

    def __init__(self, place: Path, kept: Path) -> None:
        self.place, self.kept = place, kept

    def make(self) -> None:
        """Keep the files that are there now."""
        shutil.rmtree(self.kept, ignore_errors=True)
        if self.place.is_dir():
            shutil.copytree(self.place, self.kept, copy_function=os.link)

    def restore(self) -> None:
        """Put them back; a service that is started again finds what it served before."""
        if self.kept.is_dir():
            shutil.rmtree(self.place, ignore_errors=True)
            self.kept.rename(self.place)


def swap_model(folder: Path, service: str, index: IndexCopy) -> str:
    """Register the model and let the service take it and its index; return what became of it.

    Raises UserError where the service refuses them or does not answer. Champion and index are as before then, and
    where it is cancelled.
    """
    from tuwen.service.index.build import choose_answering_model
    from tuwen.tracking import published, registry

    with contextlib.chdir(folder), hide_cards():
        before = published.get_champion()
        model = choose_answering_model(Path("models"))
        try:
            made = registry.register(model, GALLERY, load_params().evaluate)
            if not made.is_champion:
                index.restore()
                return f"version {made.version} is the challenger, and the service stays as it is: {made.why}"
            answered = ask_to_reload(service, os.environ.get(TOKEN_VARIABLE, ""))
            require_published(answered, {"model": hash_path(model), "index": hash_path(INDEX)})
        except BaseException:
            index.restore()  # first: a service that finds its champion back finds the index of it
            published.set_champion(before)
            raise
    return f"version {made.version} is in service: {made.why}; index {answered['index'][:16]}"


def require_published(answered: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raise UserError unless what the service answers with now is what was published; both are digests by name."""
    for name, digest in expected.items():
        if answered[name] != digest:
            raise UserError(
                f"service: it took another {name}, {answered[name]}, and {digest} was published; start it with "
                "TUWEN_SEARCH_MODEL=models:/tuwen@champion, over the index of this checkout"
            )


def ask_to_reload(service: str, token: str) -> dict[str, str]:
    """Let the service load anew; return the digests of the model and the index that it answers with then.

    Raises UserError where it refuses or does not answer.
    """
    try:
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.post(f"{service}/reload", headers=headers, timeout=SWAP_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(f"service: nothing answers at {service} ({error}); start it with `make search`") from None
    try:
        body = answer.json()
    except ValueError:
        body = {}
    if answer.is_success:
        return {name: str(body.get(name, {}).get("digest")) for name in ("model", "index")}
    said = body.get("error", {}).get("message", answer.reason_phrase)
    raise UserError(f"service: {service} answers {answer.status_code}: {said}")


def main(
    preset: Annotated[str, typer.Option(help="A file in presets/, without .yaml.")] = "sample",
    service: Annotated[str, typer.Option(help=f"The search service; or {SERVICE_VARIABLE}, or {SERVICE}.")] = "",
) -> None:
    """Publish the newest model, on a Prefect server of its own unless PREFECT_API_URL names one."""
    try:
        state = call_on_server(lambda: publish(preset, service, return_state=True))
    except UserError as error:
        sys.exit(f"error: {error}")
    if not state.is_completed():
        sys.exit(f"error: {state.message}")
    print(state.message)


if __name__ == "__main__":
    typer.run(main)
