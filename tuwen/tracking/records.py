"""What is written to a run of MLflow: its name, params, tags, metrics and dataset inputs."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuwen.core.errors import hide_credentials
from tuwen.tracking.revision import digest_output, find_naming_file

OUT_TAG = "tuwen.out"
OUTPUT_TAG = "tuwen.output_sha256"
PARENT_TAG = "mlflow.parentRunId"  # MLflow's own name: its pages show a child below its parent
ID_SHOWN = 7  # characters of a run's id that make its name the only one


def is_model(out: Path) -> bool:
    """Whether `out` is a model, whose run is a training; else it is an evaluation."""
    return out.parts[0] == "models"


def get_kind(out: Path) -> str:
    """Return "training" or "evaluation"."""
    return "training" if is_model(out) else "evaluation"


def create_run(client: Any, experiment: str, out: Path, label: str, parent: str | None = None) -> str:
    """Create the run of the folder `out`, named `label` and the start of its id; return the id."""
    tags = {"tuwen.kind": get_kind(out), OUT_TAG: str(out)} | ({PARENT_TAG: parent} if parent else {})
    run_id = str(client.create_run(experiment, run_name=label, tags=tags).info.run_id)
    client.update_run(run_id, name=f"{label} {run_id[:ID_SHOWN]}")
    return run_id


def create_evaluation(client: Any, experiment: str, out: Path) -> str:
    """Create the run of the evaluation `out`, a child of its model's run and named after it, and return its id."""
    parent = find_training(client, experiment, out)
    of = client.get_run(parent).info.run_name if parent else out.name
    return create_run(client, experiment, out, f"evaluate {of}", parent)


def find_training(client: Any, experiment: str, out: Path) -> str | None:
    """Return the run of the model that the evaluation `out` is of; None where there is none."""
    model = Path("models") / out.name
    return find_output(client, experiment, model) if find_naming_file(model) else None


def find_output(client: Any, experiment: str, out: Path) -> str | None:
    """Return the newest run that made these very bytes of the folder `out`; None where there is none."""
    wanted = f"tags.`{OUTPUT_TAG}` = '{digest_output(out)}' and tags.`{OUT_TAG}` = '{out}'"
    newest = client.search_runs([experiment], filter_string=wanted, max_results=1)
    return str(newest[0].info.run_id) if newest else None


def log_to_run(
    client: Any,
    run_id: str | None,
    *,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    step: int = 0,
    time_ms: int | None = None,
) -> None:
    """Log params (nested ones with dots, values cut to MLflow's limit), tags and metrics of one run.

    A param that the run has keeps its value: MLflow refuses another one, and resumed work is the same work. The
    same metric at the same step and time is logged once. time_ms: of the metrics, now where it is None.
    """
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

    when_ms = int(time.time() * 1000) if time_ms is None else time_ms
    points = [Metric(name, float(value), when_ms, step) for name, value in (metrics or {}).items()]
    client.log_batch(run_id, metrics=points, tags=[RunTag(*tag) for tag in (tags or {}).items()])
    if not params:
        return
    there = client.get_run(run_id).data.params
    missing = [(key, value) for key, value in flatten(params) if key not in there]
    flat = [Param(key, hide_credentials(value)[:MAX_PARAM_VAL_LENGTH]) for key, value in missing]
    for start in range(0, len(flat), MAX_PARAMS_TAGS_PER_BATCH):
        client.log_batch(run_id, params=flat[start : start + MAX_PARAMS_TAGS_PER_BATCH])


def log_inputs(client: Any, run_id: str, inputs: Mapping[str, str], context: str) -> None:
    """Log what a run read as MLflow's dataset inputs: path -> DVC's md5; context: training or evaluation."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    datasets = [Dataset(path, md5, "local", json.dumps({"uri": path})) for path, md5 in inputs.items()]
    tags = [InputTag("mlflow.data.context", context)]
    client.log_inputs(run_id, [DatasetInput(dataset, tags) for dataset in datasets])


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name with dots, value as text) for each leaf of nested mappings."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
