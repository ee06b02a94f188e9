"""Tie outs, dvc.lock, commit and MLflow runs together, and make the runs that MLflow lacks.

MLflow is a projection of the outs: a run is found by the sha256 of what it made, and made again from the outs
where there is none. A lost store costs nothing but system metrics.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError
from tuwen.data.formats import manifest
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.json_file import read_json, write_json
from tuwen.evaluation.results import list_measured
from tuwen.tracking import artifacts, recipe, records, revision, runs
from tuwen.tracking.abandoned import stop_abandoned_runs
from tuwen.tracking.figures import flatten_metrics, get_cost_name, log_in_training
from tuwen.tracking.records import is_model
from tuwen.tracking.revision import LOCK

REFITTED = Path("models/final")
LINEAGE = Path("runs/lineage.json")
DATA_FOLDERS = ("data", "embeddings")  # deps below these are data; the others are code or a model
ATTACHED_TAG = "tuwen.attached_sha256"


def sync() -> dict[str, str]:
    """Write runs/lineage.json, make the runs that MLflow lacks, complete those that it has, end those of the dead.

    Returns out folder -> MLflow run id. A second call makes no second run. Raises UserError when MLflow is out of
    reach; the lineage then names the runs found so far.
    """
    stages = revision.read_lock()
    ties: dict[str, Any] = {
        "git_commit": revision.get_commit(),
        "git_dirty": revision.is_dirty(),
        "git_unknown": revision.explain_unknown(),
        "dvc_lock_sha256": manifest.hash_file(LOCK) if LOCK.is_file() else "",
        "outs": {name: revision.read_hashes(stage, "outs") for name, stage in stages.items()},
        "runs": {},
    }
    run_ids: dict[str, str] = ties["runs"]
    outs = [out for out in _tracked() if revision.find_naming_file(out)]
    try:
        client, experiment = runs.connect()
        stop_abandoned_runs(client, experiment)
        for out in outs:
            run_id = run_ids[str(out)] = find_run(client, experiment, out)
            _tag(client, run_id, out, stages, ties["dvc_lock_sha256"])
            if is_model(out):
                records.log_to_run(client, run_id, params=recipe.read_recipe(out))
            else:
                _attach(client, run_id, out, stages)
                if training := run_ids.get(f"models/{out.name}"):
                    log_in_training(client, training, run_id, out)
    except runs.list_store_errors() as error:
        raise UserError(
            f"TUWEN_TRACKING_URI: {runs.explain(error)}; then run `tuwen track sync`; "
            "the results themselves are not affected"
        ) from error
    finally:
        LINEAGE.parent.mkdir(parents=True, exist_ok=True)
        write_json(LINEAGE, ties)
    return run_ids


def find_run(client: Any, experiment: str, out: Path) -> str:
    """Return the id of the run that made `out`; where the store has none, make one from `out`."""
    return records.find_output(client, experiment, out) or _refill(client, experiment, out)


def find_trained_folder(model: Path) -> Path:
    """Return the folder whose training made `model`: models/final may be a copy of the fine-tuned model."""
    tuned = Path("models/finetuned")
    both_exist = revision.find_naming_file(model) and revision.find_naming_file(tuned)
    return tuned if both_exist and revision.digest_output(model) == revision.digest_output(tuned) else model


def _tracked() -> list[Path]:
    """Return the outs that have a run of their own; a re-ranker that is switched off made none."""
    measured = list_measured(Path("results"))
    outs = [Path(top) / name for top in ("models", "results") for name in measured]
    return [*outs, REFITTED] if find_trained_folder(REFITTED) == REFITTED else outs


def _refill(client: Any, experiment: str, out: Path) -> str:
    """Make the run of `out` from its files; the digest comes last, so half a run never counts as a whole one."""
    if is_model(out):
        settings = recipe.read_recipe(out)
        run_id = records.create_run(client, experiment, out, recipe.label_training(out, settings))
        origin = read_json(out / manifest.MANIFEST)
        inputs = {f"tuwen.input.{name}": digest for name, digest in origin["inputs"].items()}
        records.log_to_run(client, run_id, params=settings, tags=inputs)
        training = read_json(out / "training.json")
        before = {f"batch_{name}": value for name, value in training.get("batch", {}).items()}
        records.log_to_run(client, run_id, metrics=before, step=0)
        for record in training["epochs"]:
            records.log_to_run(client, run_id, metrics=record, step=record["epoch"])
    else:
        run_id = records.create_evaluation(client, experiment, out)
        locked = _locked(out, revision.read_lock()).get("params", {}).get("params.yaml", {})
        asked = [(key.partition("."), value) for key, value in records.flatten(locked)]
        params = {"model": out.name} | {key: value for (group, _, key), value in asked if group == "evaluate"}
        metrics = read_json(out / "metrics.json")
        records.log_to_run(client, run_id, params=params, metrics=flatten_metrics(metrics))
    # By dvc.lock the checked-out code gives these outs, whichever commit they were first made at.
    tags = {revision.COMMIT_TAG: revision.get_commit() or "", "tuwen.refilled": "true"}
    records.log_to_run(client, run_id, tags=tags)
    client.set_tag(run_id, records.OUTPUT_TAG, revision.digest_output(out))
    client.set_terminated(run_id)
    return run_id


def _tag(client: Any, run_id: str, out: Path, stages: Mapping[str, Any], lock_sha256: str) -> None:
    """Tag the run with what dvc.lock records of its stage: DVC writes it after the stage has ended."""
    locked, model = _locked(out, stages), Path("models") / out.name
    names = {str(out), str(revision.find_naming_file(out))}
    deps = revision.read_hashes(locked, "deps")
    md5 = next((md5 for path, md5 in revision.read_hashes(locked, "outs").items() if path in names), "")
    tags = {"tuwen.dvc_lock_sha256": lock_sha256, "tuwen.dvc_out_md5": md5}
    if revision.find_naming_file(model):
        tags["tuwen.model_sha256"] = revision.digest_output(model)
    tags["tuwen.model_md5"] = md5 if is_model(out) else deps.get(str(model), "")
    records.log_to_run(client, run_id, tags=tags)
    data = {path: md5 for path, md5 in deps.items() if Path(path).parts[0] in DATA_FOLDERS}
    if data and not client.get_run(run_id).inputs.dataset_inputs:
        records.log_inputs(client, run_id, data, records.get_kind(out))


def _attach(client: Any, run_id: str, out: Path, stages: Mapping[str, Any]) -> None:
    """Log the evaluation's files, charts and report as artifacts of its run, once for the same bytes."""
    files = list(artifacts.list_files(out, stages))
    digest = hashlib.sha256("".join(map(manifest.hash_file, files)).encode()).hexdigest()
    if client.get_run(run_id).data.tags.get(ATTACHED_TAG) == digest:
        return
    for path in files:
        client.log_artifact(run_id, str(path))
    for name, svg in artifacts.draw_charts(out, _read_costs(client, run_id)).items():
        client.log_text(run_id, svg, f"figures/{name}")
    client.set_tag(run_id, ATTACHED_TAG, digest)


def _read_costs(client: Any, run_id: str) -> artifacts.Costs:
    """Return what re-ranking cost on the machine of the run, by direction and depth; nothing of other runs."""
    logged = client.get_run(run_id).data.metrics
    return {
        name: {point.step: point.value for point in client.get_metric_history(run_id, get_cost_name(name))}
        for name in DIRECTIONS
        if get_cost_name(name) in logged
    }


def _locked(out: Path, stages: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of the stage that made `out`; empty where the lock has none."""
    names = {str(out), str(revision.find_naming_file(out))}
    return next((stage for stage in stages.values() if names & revision.read_hashes(stage, "outs").keys()), {})
