"""MLflow runs whose failures never stop the work that they record.

MLflow is a projection of the outs: a run is found again by the sha256 of what it made (lineage.py).
"""

import contextlib
import fcntl
import gc
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tuwen.core.errors import hide_credentials
from tuwen.core.progress import say
from tuwen.core.signals import turn_sigterm_into_exit
from tuwen.data.formats import manifest
from tuwen.tracking import recipe, records, revision, system_metrics
from tuwen.tracking.abandoned import PROCESS_TAG, describe_process
from tuwen.tracking.advice import find_remedy
from tuwen.tracking.figures import log_in_training

EXPERIMENT = "tuwen"
TAGGED_VARIABLES = {"DVC_STAGE": "tuwen.dvc_stage", "TUWEN_PREFECT_FLOW_RUN": "tuwen.prefect_flow_run"}


@contextlib.contextmanager
def track_run(out: Path, params: Mapping[str, Any], inputs: Mapping[str, Path], kept: Path) -> Iterator["Run"]:
    """Yield an MLflow run for a `with` block: FAILED when the block raises, KILLED on Ctrl-C or SIGTERM.

    out: the folder that is made, models/NAME or, of that model's evaluation, results/NAME. params: the settings of
    the stage, nested; a training's run has those of the stages before it too. inputs: name -> folder or file that
    is read, tagged by digest. kept: a file that names the run until the block has succeeded, so that the same
    work, begun again after a kill, goes on with it; a new run is made where the store lacks that one. Of
    torchrun's processes only the first has a run. MLflow out of reach, at any moment, is one warning and never an
    exception.
    """
    tracked = Run()
    with turn_sigterm_into_exit():
        try:
            if os.environ.get("RANK", "0") == "0":
                tracked.start(out, params, inputs, kept)
            yield tracked
        except Exception:
            tracked.end("FAILED")
            raise
        except BaseException:
            tracked.end("KILLED")
            raise
    tracked.end("FINISHED")
    with contextlib.suppress(OSError):  # removed together with the checkpoint, or never written
        kept.unlink()


class Run:
    """One MLflow run; its first failure is one warning, and nothing is logged to it after that."""

    def __init__(self) -> None:
        self.id: str | None = None
        self._client: Any = None
        self._experiment = ""
        self._inputs: list[Path] = []
        self._monitor: Any = None

    def start(self, out: Path, params: Mapping[str, Any], inputs: Mapping[str, Path], kept: Path) -> None:
        """Open the run that the file `kept` names, or a new one, and log what it starts from."""

        def open_run() -> None:
            self._client, self._experiment = connect()
            self._inputs = list(inputs.values())
            settings = recipe.make_recipe(params, self._inputs) if records.is_model(out) else params
            self.id = _reopen(self._client, kept) or _create(self._client, self._experiment, out, settings)
            with contextlib.suppress(OSError):  # without the file, work that is killed goes on in a second run
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(self.id, encoding="utf-8")
            tags = {f"tuwen.input.{key}": manifest.hash_path(path) for key, path in inputs.items()}
            tags |= {revision.COMMIT_TAG: revision.get_commit() or "", PROCESS_TAG: describe_process()}
            tags |= {"tuwen.git_dirty": revision.describe_changes()}
            tags |= {tag: os.environ[name] for name, tag in TAGGED_VARIABLES.items() if os.environ.get(name)}
            records.log_to_run(self._client, self.id, params=settings, tags=tags)
            self._monitor = system_metrics.start_monitor(self.id, get_address())

        self._attempt(open_run)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics at `step` (epochs for a training)."""
        if self._client is not None:
            self._attempt(lambda: records.log_to_run(self._client, self.id, metrics=metrics, step=step))

    def finish_output(self, out: Path) -> None:
        """Complete a training's recipe, or show an evaluation in its training; then tag the run with the digest.

        By the digest of what it made `sync` recognises it as the run of `out`.
        """

        def complete() -> None:
            if records.is_model(out):
                records.log_to_run(self._client, self.id, params=recipe.read_recipe(out, self._inputs))
            elif training := records.find_training(self._client, self._experiment, out):
                log_in_training(self._client, training, str(self.id), out)
            self._client.set_tag(self.id, records.OUTPUT_TAG, revision.digest_output(out))

        if self._client is not None:
            self._attempt(complete)

    def end(self, status: str) -> None:
        """End the run; one that lost a part of its record ends as FAILED, and `sync` makes a complete one."""
        if self._monitor is not None:
            system_metrics.stop_monitor(self._monitor)
        if self._client is not None:
            self._attempt(lambda: self._client.set_terminated(self.id, status))
        elif self.id is not None:
            with contextlib.suppress(Exception):  # the warning was given; this is one more try to end the run
                connect()[0].set_terminated(self.id, "FAILED")

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._client = None
            then = "the work goes on without it, `tuwen track sync` fills in what is missing"
            say(f"warning: MLflow failed: {explain(error)}; {then}", error=True)


def get_address() -> str:
    """Return MLflow's address, which may hold a password."""
    return os.environ.get("TUWEN_TRACKING_URI") or "sqlite:///mlflow.db"


def connect(patience_seconds: int = 5) -> tuple[Any, str]:
    """Return a client and the id of the experiment, created where missing; patience_seconds: for one answer."""
    # By default MLflow retries for minutes; a training must not wait for its log. The user's own settings win.
    for name, value in (("MAX_RETRIES", 1), ("TIMEOUT", patience_seconds), ("BACKOFF_FACTOR", 1)):
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", str(value))
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    uri, artifacts = get_address(), None
    with _pause_collection():
        from mlflow import MlflowClient

    for noisy in ("mlflow", "urllib3"):  # no lines about new tables or retries: one warning is ours
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with contextlib.ExitStack() as opening:
        if uri.startswith("sqlite:///"):
            path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
            opening.enter_context(_open_alone(path))
            # beside the database, which all presets share: a preset's worktree may be removed
            artifacts = (path.absolute().parent / "runs/mlartifacts").as_uri()
        with _pause_collection():  # it imports the store
            client = MlflowClient(tracking_uri=uri)
        return client, _find_experiment(client) or _create_experiment(client, artifacts)


@contextlib.contextmanager
def _pause_collection() -> Iterator[None]:
    """Import without Python's collector, which would walk again and again through modules that all stay."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def _open_alone(path: Path) -> Iterator[None]:
    """Let no other process open the database inside the block: two that make its tables at once both fail."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)  # locking the file itself would be SQLite's affair
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")  # MLflow would retry an unusable file for 100 seconds
        yield
    finally:
        os.close(folder)


def _find_experiment(client: Any) -> str | None:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return str(experiment.experiment_id) if experiment else None


def _create_experiment(client: Any, artifacts: str | None) -> str:
    """Create the experiment; where another process was faster, or a late answer was asked for again, find it."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(EXPERIMENT, artifact_location=artifacts))
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS" and (created := _find_experiment(client)):
            return created
        raise


def _create(client: Any, experiment: str, out: Path, settings: Mapping[str, Any]) -> str:
    """Create the run of `out`: of a model by the name of its recipe, of an evaluation below its model's run."""
    if records.is_model(out):
        return records.create_run(client, experiment, out, recipe.label_training(out, settings))
    return records.create_evaluation(client, experiment, out)


def _reopen(client: Any, kept: Path) -> str | None:
    """Set the run that the file `kept` names to running; None where there is no such run or the store lost it."""
    if not kept.is_file() or not (run_id := kept.read_text(encoding="utf-8")):
        return None
    try:
        run = client.get_run(run_id)
    except list_store_errors() as error:
        if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if run.info.lifecycle_stage != "active":
        return None
    client.update_run(run_id, status="RUNNING")
    return run_id


def list_store_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that calls to MLflow raise when it cannot be reached or refuses."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError  # as MLflow passes it on while it makes tables

    return MlflowException, OSError, sqlite3.Error, SQLAlchemyError


def explain(error: BaseException) -> str:
    """Return MLflow's address, the start of an error's message and what to do, without the passwords in them."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    shown = hide_credentials(first).rstrip(". ")[:200]
    return f"{hide_credentials(get_address())}: {shown}; {find_remedy(error, get_address())}"
