"""MLflow runs that cannot hurt the work they watch; the one file that imports mlflow.

MLflow is a projection of the outs: a run is found again by the sha256 of what it made (tuwen/lineage.py).
"""

import contextlib
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tuwen import manifest
from tuwen.progress import say

EXPERIMENT = "tuwen"
OUTPUT_TAG = "tuwen.output_sha256"
COMMIT_TAG = "mlflow.source.git.commit"  # MLflow's own name: its pages show it
# Params are logged as params, and a preset's worktree has its own: neither they nor outs make the code dirty.
CODE = ("tuwen", "stages", "dvc.yaml", "constraints.txt")


@contextlib.contextmanager
def run(
    name: str, kind: str, params: Mapping[str, Any], inputs: Mapping[str, Path], resume_id: str | None = None
) -> Iterator["Run"]:
    """An MLflow run around a `with` block: FAILED when the block raises, KILLED on Ctrl-C or SIGTERM.

    kind: "training" or "evaluation". params: nested, logged with dots. inputs: name -> folder or file, tagged by
    digest. resume_id: the run to go on with; a new one is made where the store does not know it. Of torchrun's
    processes the first alone has a run. MLflow out of reach, at any moment, is one warning and never an exception.
    """
    tracked = Run()
    with _sigterm_exits():
        try:
            if os.environ.get("RANK", "0") == "0":
                tracked.start(name, kind, params, inputs, resume_id)
            yield tracked
        except Exception:
            tracked.end("FAILED")
            raise
        except BaseException:
            tracked.end("KILLED")
            raise
    tracked.end("FINISHED")


def evaluation_metrics(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """metrics.json -> flat MLflow names: test_i2t_hit_at_5 …, test's recall@5 as `t2i_recall_at_5`, `i2t_…`."""
    flat = {f"{name}_{key}": value for name, figures in metrics.items() for key, value in figures.items()}
    for name in ("t2i_recall_at_5", "i2t_recall_at_5"):
        if name in metrics.get("test", {}):
            flat[name] = metrics["test"][name]
    return flat


class Run:
    """One MLflow run; its first failure is one warning, what follows is silence."""

    def __init__(self) -> None:
        self.id: str | None = None
        self._client: Any = None

    def start(
        self, name: str, kind: str, params: Mapping[str, Any], inputs: Mapping[str, Path], resume_id: str | None
    ) -> None:
        """Open the run `resume_id` again, or a new one, and log what it starts from."""

        def open_run() -> None:
            self._client, experiment = connect()
            self.id = _reopen(self._client, resume_id) or create(self._client, experiment, name, kind)
            tags = {f"tuwen.input.{key}": manifest.digest(path) for key, path in inputs.items()}
            tags |= {COMMIT_TAG: commit() or "", "tuwen.git_dirty": str(is_dirty()).lower()}
            tags |= {"tuwen.dvc_stage": os.environ["DVC_STAGE"]} if "DVC_STAGE" in os.environ else {}
            log(self._client, self.id, params=params, tags=tags)

        self._attempt(open_run)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log figures at `step` (epochs for a training)."""
        if self._client is not None:
            self._attempt(lambda: log(self._client, self.id, metrics=metrics, step=step))

    def finish_output(self, out: Path) -> None:
        """Tag the run with the digest of what it made: from now on `sync` takes it for the run of `out`."""
        if self._client is not None:
            self._attempt(lambda: self._client.set_tag(self.id, OUTPUT_TAG, output_digest(out)))

    def end(self, status: str) -> None:
        """End the run; one that lost a part of its record ends as FAILED, and `sync` makes a whole one."""
        if self._client is not None:
            self._attempt(lambda: self._client.set_terminated(self.id, status))
        elif self.id is not None:
            with contextlib.suppress(Exception):  # it was warned of; here is one more try, for order's sake
                connect()[0].set_terminated(self.id, "FAILED")

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._client = None
            say(
                f"warning: MLflow failed: {explain(error)}; the work goes on without it, `tuwen track sync` fills "
                "in what is missing",
                error=True,
            )


def commit() -> str | None:
    """The commit that is checked out; None outside git and before the first commit."""
    return _git("rev-parse", "--verify", "HEAD")


def is_dirty() -> bool:
    """Does the code that decides the outs differ from the commit?"""
    return bool(_git("status", "--porcelain", "--", *(name for name in CODE if Path(name).exists())))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def address() -> str:
    """MLflow's address."""
    return os.environ.get("TUWEN_TRACKING_URI") or "sqlite:///mlflow.db"


def connect() -> tuple[Any, str]:
    """A client and the id of the experiment, which is made where it is missing."""
    # MLflow's own patience is minutes; a training must not wait for its log. The user's settings win.
    for name, value in (("MAX_RETRIES", "1"), ("TIMEOUT", "5"), ("BACKOFF_FACTOR", "1")):
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    uri, artifacts = address(), None
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")  # MLflow would retry an unusable file for 100 seconds
        artifacts = Path("runs/mlartifacts").absolute().as_uri()
    from mlflow import MlflowClient

    for noisy in ("mlflow", "urllib3"):  # no lines about tables being made or retries: we warn once ourselves
        logging.getLogger(noisy).setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return client, client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    return client, experiment.experiment_id


def create(client: Any, experiment: str, name: str, kind: str) -> str:
    """The id of a fresh run."""
    return str(client.create_run(experiment, run_name=name, tags={"tuwen.kind": kind}).info.run_id)


def _reopen(client: Any, run_id: str | None) -> str | None:
    """`run_id`, set to running again; None where the store has no such run."""
    if run_id is None:
        return None
    try:
        found = client.get_run(run_id)
    except store_errors() as error:
        if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if found.info.lifecycle_stage != "active":
        return None
    client.update_run(run_id, status="RUNNING")
    return run_id


def log(
    client: Any,
    run_id: str | None,
    *,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    step: int = 0,
) -> None:
    """Write params (nested ones with dots, values cut to MLflow's limit), tags and figures of one run."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

    now_ms = int(time.time() * 1000)
    figures = [Metric(name, float(value), now_ms, step) for name, value in (metrics or {}).items()]
    client.log_batch(run_id, metrics=figures, tags=[RunTag(*tag) for tag in (tags or {}).items()])
    flat = [Param(key, value[:MAX_PARAM_VAL_LENGTH]) for key, value in _flatten(params or {})]
    for start in range(0, len(flat), MAX_PARAMS_TAGS_PER_BATCH):
        client.log_batch(run_id, params=flat[start : start + MAX_PARAMS_TAGS_PER_BATCH])


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def named_by(out: Path) -> Path | None:
    """The file whose sha256 names an out folder; not all of its files, DVC may lay a .gitignore beside them."""
    names = (out / manifest.NAME, out / "metrics.json")
    return next((path for path in names if path.is_file()), None)


def output_digest(out: Path) -> str:
    """sha256 that names what lies in `out`."""
    path = named_by(out)
    assert path is not None, f"{out} has neither {manifest.NAME} nor metrics.json"
    return manifest.file_sha256(path)


def store_errors() -> tuple[type[Exception], ...]:
    """What the calls above raise when MLflow cannot be reached or refuses."""
    from mlflow.exceptions import MlflowException

    return MlflowException, OSError, sqlite3.Error


def explain(error: BaseException) -> str:
    """MLflow's address and the start of an error's message, without a password that either may hold."""
    first = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return re.sub(r"//[^/@\s]*@", "//***@", f"{address()}: {first}")


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    """SIGTERM becomes SystemExit inside the block, unless somebody else listens or this is not the main thread."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
