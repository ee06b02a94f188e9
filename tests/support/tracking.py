"""Models and evaluations as the stages leave them, and what the MLflow store of a test holds."""

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from tuwen.data.formats import manifest
from tuwen.tracking import records, runs

RAN = {"precision": "fp32", "device": "cpu", "processes": 1, "torch": "2.13.0+cpu"}  # asked for bf16, maybe
KEPT = Path(".cache/kept")  # names a run, in the test's folder


def all_runs(store: Path) -> list[Run]:
    client = MlflowClient(tracking_uri=f"sqlite:///{store}")
    experiment = client.get_experiment_by_name(runs.EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id]))


def runs_by_out(store: Path) -> dict[str, Run]:
    """Out -> its run; each has one."""
    listed = all_runs(store)
    by_out = {run.data.tags[records.OUT_TAG]: run for run in listed}
    assert len(by_out) == len(listed)
    return by_out


def curve(store: Path, run_id: str, metric: str) -> list[tuple[int, float]]:
    history = MlflowClient(tracking_uri=f"sqlite:///{store}").get_metric_history(run_id, metric)
    return [(point.step, point.value) for point in history]


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def make_outs(params: Mapping[str, Any] | None = None) -> None:
    """Write two models and their evaluations, as the stages leave them."""
    for model, loss in (("baseline", 4.0), ("finetuned", 2.0)):
        folder = Path("models") / model
        epochs = [
            {"epoch": 1, "loss": loss, "temperature": 0.07, "valid_i2t_hit_at_5": 0.1},
            {"epoch": 2, "loss": loss / 2, "temperature": 0.06, "valid_i2t_hit_at_5": 0.3},
        ]
        facts = {"pairs": 12, "steps": 4, "batch": {"siblings_per_row": 0.5}, "ran": RAN}
        write_json(folder / "training.json", facts | {"epochs": epochs})
        manifest.write_manifest(folder, {}, params or {"finetune": {"fit": {"lr": 0.0004, "precision": "bf16"}}})
        figures = {"i2t_hit_at_5": 0.4, "i2t_recall_at_5": 0.3, "t2i_hit_at_5": 0.45, "t2i_recall_at_5": 0.35}
        test = figures | {"images": 10, "i2t_hit_at_1": loss / 10}
        write_json(Path("results") / model / "metrics.json", {"test": test, "valid": figures})
    Path("dvc.lock").write_text(
        textwrap.dedent(
            """\
            schema: '2.0'
            stages:
              augment:
                cmd: python -m stages.augment
                params: {params.yaml: {augment: {views: 8}}}
                outs:
                - {path: data/augmented, md5: abcd.dir}
              finetune:
                cmd: python -m stages.finetune
                deps:
                - {path: tuwen/train.py, md5: '8888'}
                - {path: data/augmented, md5: abcd.dir}
                - {path: models/baseline, md5: 9999.dir}
                outs:
                - {path: models/finetuned, md5: 0123.dir}
              evaluate@finetuned:
                cmd: python -m stages.evaluate finetuned
                deps:
                - {path: embeddings/finetuned/test, md5: ef01.dir}
                - {path: models/finetuned, md5: 0123.dir}
                params: {params.yaml: {evaluate: {ks: [1, 5, 10]}}}
                outs:
                - {path: results/finetuned/metrics.json, md5: '4567'}
              report:
                cmd: python -m stages.report
                deps:
                - {path: results/finetuned/metrics.json, md5: '4567'}
                - {path: results/baseline/metrics.json, md5: '4568'}
            """
        )
    )


def artifacts(run_id: str) -> Path:
    """Return the artifact folder of a run in the local store."""
    uri = MlflowClient(runs.get_address()).get_run(run_id).info.artifact_uri
    return Path(uri.removeprefix("file://"))
