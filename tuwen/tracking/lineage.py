"""Tie outs, dvc.lock, commit and MLflow runs together, and make the runs that MLflow lacks.

MLflow is a projection of the outs: a run is found by the sha256 of what it made, and made again from the outs
where there is none. A lost store costs nothing but system metrics.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError
from tuwen.data.formats import manifest
from tuwen.data.formats.json_file import write_json
from tuwen.evaluation.models import MODELS
from tuwen.tracking import artifacts, revision, runs

REFITTED = Path("models/final")
LOCK = Path("dvc.lock")
LINEAGE = Path("runs/lineage.json")
DATA_FOLDERS = ("data", "embeddings")  # deps below these are data; the others are code or a model
ATTACHED_TAG = "tuwen.attached_sha256"


def sync() -> dict[str, str]:
    """Write runs/lineage.json, make the runs that MLflow lacks and complete those that it has.

    Returns out folder -> MLflow run id. A second call makes no second run. Raises UserError when MLflow is out of
    reach; the lineage then names the runs found so far.
    """
    stages = _locked_stages()
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
        for out in outs:
            run_ids[str(out)] = find_run(client, experiment, out)
            _tag(client, run_ids[str(out)], out, stages, ties["dvc_lock_sha256"])
            if not _is_model(out):
                _attach(client, run_ids[str(out)], out, stages)
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
    locked = _locked(out, _locked_stages())
    return _find(client, experiment, out) or _refill(client, experiment, out, locked)


def find_training(model: Path) -> Path:
    """Return the folder whose training made `model`: models/final may be a copy of the fine-tuned model."""
    tuned = Path("models/finetuned")
    both_exist = revision.find_naming_file(model) and revision.find_naming_file(tuned)
    return tuned if both_exist and revision.digest_output(model) == revision.digest_output(tuned) else model


def _tracked() -> list[Path]:
    """Return the outs that have a run of their own."""
    outs = [Path(top) / model for top in ("models", "results") for model in MODELS]
    return [*outs, REFITTED] if find_training(REFITTED) == REFITTED else outs


def _find(client: Any, experiment: str, out: Path) -> str | None:
    """Return the newest run that made these very bytes."""
    same_output = f"tags.`{runs.OUTPUT_TAG}` = '{revision.digest_output(out)}'"
    wanted = f"{same_output} and attributes.run_name = '{_run_name(out)}'"
    newest = client.search_runs([experiment], filter_string=wanted, max_results=1)
    return str(newest[0].info.run_id) if newest else None


def _refill(client: Any, experiment: str, out: Path, locked: Mapping[str, Any]) -> str:
    """Make the run of `out` from its files; the digest comes last, so half a run never counts as a whole one."""
    run_id = runs.create_run(client, experiment, _run_name(out), "training" if _is_model(out) else "evaluation")
    if _is_model(out):
        origin = json.loads((out / manifest.MANIFEST).read_text(encoding="utf-8"))
        inputs = {f"tuwen.input.{name}": digest for name, digest in origin["inputs"].items()}
        runs.log_to_run(client, run_id, params=origin["params"], tags=inputs)
        for record in json.loads((out / "training.json").read_text(encoding="utf-8"))["epochs"]:
            runs.log_to_run(client, run_id, metrics=record, step=record["epoch"])
    else:
        params = {"model": out.name, **locked.get("params", {}).get("params.yaml", {}).get("evaluate", {})}
        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        runs.log_to_run(client, run_id, params=params, metrics=runs.flatten_metrics(metrics))
    # By dvc.lock the checked-out code gives these outs, whichever commit they were first made at.
    runs.log_to_run(client, run_id, tags={runs.COMMIT_TAG: revision.get_commit() or "", "tuwen.refilled": "true"})
    client.set_tag(run_id, runs.OUTPUT_TAG, revision.digest_output(out))
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
    tags["tuwen.model_md5"] = md5 if _is_model(out) else deps.get(str(model), "")
    runs.log_to_run(client, run_id, tags=tags)
    data = {path: md5 for path, md5 in deps.items() if Path(path).parts[0] in DATA_FOLDERS}
    if data and not client.get_run(run_id).inputs.dataset_inputs:
        runs.log_inputs(client, run_id, data, "training" if _is_model(out) else "evaluation")


def _attach(client: Any, run_id: str, out: Path, stages: Mapping[str, Any]) -> None:
    """Log the evaluation's files, charts and report as artifacts of its run, once for the same bytes."""
    files = list(artifacts.list_files(out, stages))
    digest = hashlib.sha256("".join(map(manifest.hash_file, files)).encode()).hexdigest()
    if client.get_run(run_id).data.tags.get(ATTACHED_TAG) == digest:
        return
    for path in files:
        client.log_artifact(run_id, str(path))
    for name, svg in artifacts.draw_charts(out).items():
        client.log_text(run_id, svg, f"figures/{name}")
    client.set_tag(run_id, ATTACHED_TAG, digest)


def _is_model(out: Path) -> bool:
    return out.parts[0] == "models"


def _run_name(out: Path) -> str:
    return out.name if _is_model(out) else f"evaluate-{out.name}"


def _locked_stages() -> dict[str, Any]:
    """Read dvc.lock: stage name -> cmd, deps, params, outs; empty where there is no lock yet."""
    from ruamel.yaml import YAML

    stages: dict[str, Any] = YAML(typ="safe", pure=True).load(LOCK)["stages"] if LOCK.is_file() else {}
    return stages


def _locked(out: Path, stages: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of the stage that made `out`; empty where the lock has none."""
    names = {str(out), str(revision.find_naming_file(out))}
    return next((stage for stage in stages.values() if names & revision.read_hashes(stage, "outs").keys()), {})
