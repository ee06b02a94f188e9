"""Which commit, which dvc.lock and which MLflow run belong to which outs; fills in the runs that MLflow misses.

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
from tuwen.tracking import artifacts, revision
from tuwen.tracking import runs as track

MEASURED = ("baseline", "finetuned")
REFITTED = Path("models/final")
LOCK = Path("dvc.lock")
LINEAGE = Path("runs/lineage.json")
DATA = ("data", "embeddings")  # deps that are data, neither code nor a model
ATTACHED_TAG = "tuwen.attached_sha256"


def sync() -> dict[str, str]:
    """Tie outs, dvc.lock, commit and MLflow runs together in runs/lineage.json; make the runs that MLflow misses.

    Returns out folder -> MLflow run id. A second call makes no second run. Raises UserError when MLflow is out of
    reach; the lineage is then written with the runs found so far.
    """
    stages = _locked_stages()
    ties: dict[str, Any] = {
        "git_commit": revision.get_commit(),
        "git_dirty": revision.is_dirty(),
        "dvc_lock_sha256": manifest.hash_file(LOCK) if LOCK.is_file() else "",
        "outs": {name: revision.read_hashes(stage, "outs") for name, stage in stages.items()},
        "runs": {},
    }
    runs: dict[str, str] = ties["runs"]
    outs = [out for out in _tracked() if revision.named_by(out)]
    try:
        client, experiment = track.connect()
        for out in outs:
            runs[str(out)] = find_run(client, experiment, out)
            _tag(client, runs[str(out)], out, stages, ties["dvc_lock_sha256"])
            if not _is_model(out):
                _attach(client, runs[str(out)], out, stages)
    except track.list_store_errors() as error:
        raise UserError(
            f"TUWEN_TRACKING_URI: {track.explain(error)}; start that server "
            "or correct the address, then run `tuwen track sync`; the results themselves are not affected"
        ) from error
    finally:
        LINEAGE.parent.mkdir(parents=True, exist_ok=True)
        write_json(LINEAGE, ties)
    return runs


def find_run(client: Any, experiment: str, out: Path) -> str:
    """The run that made `out`, made from it where the store has none."""
    locked = _locked(out, _locked_stages())
    return _find(client, experiment, out) or _refill(client, experiment, out, locked)


def find_training(model: Path) -> Path:
    """The folder whose training made `model`; models/final is a copy of the fine-tuned one, or a refit."""
    tuned = Path("models/finetuned")
    there = revision.named_by(model) and revision.named_by(tuned)
    return tuned if there and revision.digest_output(model) == revision.digest_output(tuned) else model


def _tracked() -> list[Path]:
    """The outs that have a run of their own."""
    outs = [Path(top) / model for top in ("models", "results") for model in MEASURED]
    return [*outs, REFITTED] if find_training(REFITTED) == REFITTED else outs


def _find(client: Any, experiment: str, out: Path) -> str | None:
    """The newest run that made these very bytes."""
    made = f"tags.`{track.OUTPUT_TAG}` = '{revision.digest_output(out)}'"
    wanted = f"{made} and attributes.run_name = '{_run_name(out)}'"
    found = client.search_runs([experiment], filter_string=wanted, max_results=1)
    return str(found[0].info.run_id) if found else None


def _refill(client: Any, experiment: str, out: Path, locked: Mapping[str, Any]) -> str:
    """Make the run of `out` from what stands in it; its digest comes last, half a run is never taken for one."""
    run_id = track.create_run(client, experiment, _run_name(out), "training" if _is_model(out) else "evaluation")
    if _is_model(out):
        made = json.loads((out / manifest.MANIFEST).read_text())
        inputs = {f"tuwen.input.{name}": digest for name, digest in made["inputs"].items()}
        track.log_to_run(client, run_id, params=made["params"], tags=inputs)
        for record in json.loads((out / "training.json").read_text())["epochs"]:
            track.log_to_run(client, run_id, metrics=record, step=record["epoch"])
    else:
        params = {"model": out.name, **locked.get("params", {}).get("params.yaml", {}).get("evaluate", {})}
        metrics = json.loads((out / "metrics.json").read_text())
        track.log_to_run(client, run_id, params=params, metrics=track.flatten_metrics(metrics))
    # DVC holds that the checked-out code gives these outs, whichever commit they were first made at.
    track.log_to_run(
        client, run_id, tags={track.COMMIT_TAG: revision.get_commit() or "", "tuwen.refilled": "true"}
    )
    client.set_tag(run_id, track.OUTPUT_TAG, revision.digest_output(out))
    client.set_terminated(run_id)
    return run_id


def _tag(client: Any, run_id: str, out: Path, stages: Mapping[str, Any], lock_sha256: str) -> None:
    """DVC writes dvc.lock after the stage, so the run itself could not know these."""
    locked, model = _locked(out, stages), Path("models") / out.name
    ours = {str(out), str(revision.named_by(out))}
    md5 = next((md5 for path, md5 in revision.read_hashes(locked, "outs").items() if path in ours), "")
    tags = {"tuwen.dvc_lock_sha256": lock_sha256, "tuwen.dvc_out_md5": md5}
    if revision.named_by(model):
        tags["tuwen.model_sha256"] = revision.digest_output(model)
    tags["tuwen.model_md5"] = md5 if _is_model(out) else revision.read_hashes(locked, "deps").get(str(model), "")
    track.log_to_run(client, run_id, tags=tags)
    read = {path: md5 for path, md5 in revision.read_hashes(locked, "deps").items() if Path(path).parts[0] in DATA}
    if read and not client.get_run(run_id).inputs.dataset_inputs:
        track.log_inputs(client, run_id, read, "training" if _is_model(out) else "evaluation")


def _attach(client: Any, run_id: str, out: Path, stages: Mapping[str, Any]) -> None:
    """Lay the evaluation's files, figures and report beside its figures; once for the same bytes."""
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
    """dvc.lock's entries, stage name -> cmd, deps, params, outs; empty where there is no lock yet."""
    from ruamel.yaml import YAML

    stages: dict[str, Any] = YAML(typ="safe", pure=True).load(LOCK)["stages"] if LOCK.is_file() else {}
    return stages


def _locked(out: Path, stages: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of the stage that made `out`; empty where the lock has none."""
    ours = {str(out), str(revision.named_by(out))}
    return next((stage for stage in stages.values() if ours & revision.read_hashes(stage, "outs").keys()), {})
