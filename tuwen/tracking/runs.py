"""MLflow runs whose failures never stop the work that they record.

MLflow is a projection of the outs: a run is found again by the sha256 of what it made (lineage.py).
"""

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tuwen.core.errors import hide_credentials
from tuwen.core.progress import say
from tuwen.core.signals import turn_sigterm_into_exit
from tuwen.data.formats import manifest
from tuwen.tracking.advice import find_remedy
from tuwen.tracking.revision import describe_changes, digest_output, get_commit

EXPERIMENT = "tuwen"
OUTPUT_TAG = "tuwen.output_sha256"
COMMIT_TAG = "mlflow.source.git.commit"  # MLflow's own name: its pages show it
TAGGED_VARIABLES = {"DVC_STAGE": "tuwen.dvc_stage", "TUWEN_PREFECT_FLOW_RUN": "tuwen.prefect_flow_run"}
SAMPLE_SECONDS = 30  # between system metrics; MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL overrides it
MONITOR_SECONDS = 5.0  # for the thread that samples them to end


@contextlib.contextmanager
def track_run(
    name: str, kind: str, params: Mapping[str, Any], inputs: Mapping[str, Path], kept: Path
) -> Iterator["Run"]:
    """Yield an MLflow run for a `with` block: FAILED when the block raises, KILLED on Ctrl-C or SIGTERM.

    kind: "training" or "evaluation". params: nested, logged with dots. inputs: name -> folder or file, tagged by
    digest. kept: a file that names the run until the block has succeeded, so that the same work, begun again
    after a kill, goes on with it; a new run is made where the store lacks that one. Of torchrun's processes only
    the first has a run. MLflow out of reach, at any moment, is one warning and never an exception.
    """
    tracked = Run()
    with turn_sigterm_into_exit():
        try:
            if os.environ.get("RANK", "0") == "0":
                tracked.start(name, kind, params, inputs, kept)
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


def flatten_metrics(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return metrics.json by MLflow's flat names: test_i2t_hit_at_5 …, test's recall@5 also without `test_`."""
    flat = {f"{name}_{key}": value for name, figures in metrics.items() for key, value in figures.items()}
    heads = ("t2i_recall_at_5", "i2t_recall_at_5")
    return flat | {name: flat[f"test_{name}"] for name in heads if f"test_{name}" in flat}


class Run:
    """One MLflow run; its first failure is one warning, and nothing is logged to it after that."""

    def __init__(self) -> None:
        self.id: str | None = None
        self._client: Any = None
        self._monitor: Any = None

    def start(
        self, name: str, kind: str, params: Mapping[str, Any], inputs: Mapping[str, Path], kept: Path
    ) -> None:
        """Open the run that the file `kept` names, or a new one, and log what it starts from."""

        def open_run() -> None:
            self._client, experiment = connect()
            self.id = _reopen(self._client, kept) or create_run(self._client, experiment, name, kind)
            with contextlib.suppress(OSError):  # without the file, work that is killed goes on in a second run
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(self.id, encoding="utf-8")
            tags = {f"tuwen.input.{key}": manifest.hash_path(path) for key, path in inputs.items()}
            tags |= {COMMIT_TAG: get_commit() or "", "tuwen.git_dirty": describe_changes()}
            tags |= {tag: os.environ[name] for name, tag in TAGGED_VARIABLES.items() if os.environ.get(name)}
            log_to_run(self._client, self.id, params=params, tags=tags)
            self._monitor = _system_metrics(self.id)

        self._attempt(open_run)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics at `step` (epochs for a training)."""
        if self._client is not None:
            self._attempt(lambda: log_to_run(self._client, self.id, metrics=metrics, step=step))

    def finish_output(self, out: Path) -> None:
        """Tag the run with the digest of what it made, by which `sync` recognises it as the run of `out`."""
        if self._client is not None:
            self._attempt(lambda: self._client.set_tag(self.id, OUTPUT_TAG, digest_output(out)))

    def end(self, status: str) -> None:
        """End the run; one that lost a part of its record ends as FAILED, and `sync` makes a complete one."""
        if self._monitor is not None:
            _end_system_metrics(self._monitor)
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
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")  # MLflow would retry an unusable file for 100 seconds
        # beside the database, which all presets share: a preset's worktree may be removed
        artifacts = (path.absolute().parent / "runs/mlartifacts").as_uri()
    from mlflow import MlflowClient

    for noisy in ("mlflow", "urllib3"):  # no lines about new tables or retries: one warning is ours
        logging.getLogger(noisy).setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return client, client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    return client, experiment.experiment_id


def _system_metrics(run_id: str) -> Any:
    """Start a thread that logs the load of this machine; it ends by itself when the store is lost."""
    import psutil
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)  # one warning for a lost store is enough
    monitor = SystemMetricsMonitor(run_id, SAMPLE_SECONDS, resume_logging=True, tracking_uri=get_address())
    psutil.cpu_percent()  # it measures since the same thread's last call, so the first sample covers the run
    monitor.start()
    return monitor


def _end_system_metrics(monitor: Any) -> None:
    """End the thread; a run too short for a sample gets one, with the processor's mean over the run."""
    if is_short := monitor.mlflow_logger.previous_training_timestamp is None:
        for one in monitor.monitors:
            one.clear_metrics()
        monitor.collect_metrics()
    ending = threading.Thread(target=monitor.finish, daemon=True)  # it may wait for a store for ever
    ending.start()
    ending.join(MONITOR_SECONDS)
    if is_short and not ending.is_alive():
        with contextlib.suppress(Exception):  # one warning for a lost store is enough
            monitor.publish_metrics(monitor.aggregate_metrics())
            monitor.mlflow_logger.flush()


def create_run(client: Any, experiment: str, name: str, kind: str) -> str:
    """Create a run and return its id; kind: training or evaluation."""
    return str(client.create_run(experiment, run_name=name, tags={"tuwen.kind": kind}).info.run_id)


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


def log_to_run(
    client: Any,
    run_id: str | None,
    *,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    step: int = 0,
) -> None:
    """Log params (nested ones with dots, values cut to MLflow's limit), tags and metrics of one run."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

    now_ms = int(time.time() * 1000)
    points = [Metric(name, float(value), now_ms, step) for name, value in (metrics or {}).items()]
    client.log_batch(run_id, metrics=points, tags=[RunTag(*tag) for tag in (tags or {}).items()])
    flat = [Param(key, hide_credentials(value)[:MAX_PARAM_VAL_LENGTH]) for key, value in _flatten(params or {})]
    for start in range(0, len(flat), MAX_PARAMS_TAGS_PER_BATCH):
        client.log_batch(run_id, params=flat[start : start + MAX_PARAMS_TAGS_PER_BATCH])


def log_inputs(client: Any, run_id: str, inputs: Mapping[str, str], context: str) -> None:
    """Log what a run read as MLflow's dataset inputs: path -> DVC's md5; context: training or evaluation."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    datasets = [Dataset(path, md5, "local", json.dumps({"uri": path})) for path, md5 in inputs.items()]
    tags = [InputTag("mlflow.data.context", context)]
    client.log_inputs(run_id, [DatasetInput(dataset, tags) for dataset in datasets])


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def list_store_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that calls to MLflow raise when it cannot be reached or refuses."""
    from mlflow.exceptions import MlflowException

    return MlflowException, OSError, sqlite3.Error


def explain(error: BaseException) -> str:
    """Return MLflow's address, the start of an error's message and what to do, without the passwords in them."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    shown = hide_credentials(first).rstrip(". ")[:200]
    return f"{hide_credentials(get_address())}: {shown}; {find_remedy(error, get_address())}"
