"""`tuwen track sync`: it makes missing runs from the outs, once, ties them to dvc.lock and logs their files."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.support.ports import free_ports
from tests.support.tracking import KEPT, RAN, all_runs, artifacts, curve, make_outs, runs_by_out, write_json
from tuwen.core.errors import UserError
from tuwen.data.formats import manifest
from tuwen.tracking import lineage, runs
from tuwen.tracking.artifacts import list_files
from tuwen.tracking.figures import get_cost_name

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlflow's, about sqlalchemy


def test_a_run_that_lost_part_of_its_record_is_not_taken_for_whole(project: Path) -> None:
    make_outs()
    with runs.track_run(Path("models/finetuned"), {}, {}, KEPT) as run:
        whole = project.read_bytes()
        project.write_bytes(b"out of order" * 100_000)
        run.log_metrics({"loss": 1.0}, 1)
        project.write_bytes(whole)
        run.finish_output(Path("models/finetuned"))
    run_ids = lineage.sync()
    assert run_ids["models/finetuned"] != run.id
    status = {logged.info.run_id: logged.info.status for logged in all_runs(project)}
    assert status[str(run.id)] == "FAILED"
    assert curve(project, run_ids["models/finetuned"], "loss") == [(1, 2.0), (2, 1.0)]


def test_sync_refills_an_empty_store_and_makes_no_run_twice(project: Path) -> None:
    make_outs()
    run_ids = lineage.sync()
    assert list(run_ids) == ["models/baseline", "models/finetuned", "results/baseline", "results/finetuned"]
    assert lineage.sync() == run_ids
    by_out = runs_by_out(project)
    assert by_out.keys() == run_ids.keys()
    trained, evaluated = by_out["models/finetuned"], by_out["results/finetuned"]
    ran = {f"ran.{name}": str(value) for name, value in RAN.items()}
    assert trained.data.params == {"finetune.fit.lr": "0.0004", "augment.views": "8", **ran}
    assert curve(project, trained.info.run_id, "loss") == [(1, 2.0), (2, 1.0)]
    assert curve(project, trained.info.run_id, "valid_i2t_hit_at_5") == [(1, 0.1), (2, 0.3)]
    assert curve(project, trained.info.run_id, "batch_siblings_per_row") == [(0, 0.5)]
    assert trained.data.tags["tuwen.dvc_out_md5"] == "0123.dir"
    assert evaluated.data.params == {"model": "finetuned", "ks": "[1, 5, 10]"}
    assert evaluated.data.metrics["test_i2t_hit_at_5"] == 0.4
    assert evaluated.data.metrics["valid_t2i_hit_at_5"] == 0.45
    assert evaluated.data.metrics["test_t2i_recall_at_5"] == 0.35
    assert trained.data.metrics["test_t2i_R_at_5"] == evaluated.data.metrics["test_t2i_R_at_5"] == 0.45
    assert len(curve(project, trained.info.run_id, "test_t2i_R_at_5")) == 1  # the second sync added nothing
    assert evaluated.data.tags["mlflow.parentRunId"] == trained.info.run_id
    assert evaluated.data.tags["tuwen.dvc_out_md5"] == "4567"
    assert evaluated.data.tags["tuwen.dvc_lock_sha256"] == manifest.hash_file(Path("dvc.lock"))


def test_two_evaluations_with_equal_figures_are_two_runs(project: Path) -> None:
    make_outs()
    shutil.copy("results/finetuned/metrics.json", "results/baseline/metrics.json")
    run_ids = lineage.sync()
    assert len({run_ids["results/baseline"], run_ids["results/finetuned"]}) == 2


def inputs(run: Run) -> dict[str, tuple[str, str]]:
    """Name -> digest and context of a run's dataset inputs."""
    return {read.dataset.name: (read.dataset.digest, read.tags[0].value) for read in run.inputs.dataset_inputs}


def test_sync_names_what_was_read_and_which_model(project: Path) -> None:
    make_outs()
    with runs.track_run(Path("models/finetuned"), {}, {}, KEPT) as live:
        live.finish_output(Path("models/finetuned"))
    lineage.sync()
    lineage.sync()
    by_out = runs_by_out(project)
    trained, evaluated = by_out["models/finetuned"], by_out["results/finetuned"]
    assert trained.info.run_id == live.id
    assert inputs(trained) == {"data/augmented": ("abcd.dir", "training")}
    assert inputs(evaluated) == {"embeddings/finetuned/test": ("ef01.dir", "evaluation")}
    digest = manifest.hash_path(Path("models/finetuned"))
    for run in (trained, evaluated):
        assert run.data.tags["tuwen.model_md5"] == "0123.dir"
        assert run.data.tags["tuwen.model_sha256"] == digest


def attached(run_id: str, folder: str | None = None) -> set[str]:
    return {file.path for file in MlflowClient(runs.get_address()).list_artifacts(run_id, folder)}


def test_an_evaluation_carries_its_charts_and_the_report_that_covers_it(project: Path) -> None:
    make_outs()
    build_evaluation(Path("results/finetuned"))
    for name in ("report.md", "report.html"):
        (Path("results") / name).write_text("报告\n", encoding="utf-8")
    run_ids = lineage.sync()
    files = {"metrics.json", "details.json", "figures", "report.md", "report.html"}
    assert attached(run_ids["results/finetuned"]) == files
    assert attached(run_ids["results/finetuned"], "figures") == {
        f"figures/{name}.svg" for name in ("gallery-i2t", "gallery-t2i", "scores-finetuned")
    }
    # dvc.lock has no evaluation of the baseline, so it is not clear that the report covers it
    assert attached(run_ids["results/baseline"]) == {"metrics.json"}
    shown = Path(MlflowClient(runs.get_address()).download_artifacts(run_ids["results/finetuned"], "figures"))
    drawn = (shown / "gallery-t2i.svg").read_text()
    assert "#0b6bcb" in drawn
    assert "var(--" not in drawn
    kept = artifacts(run_ids["results/finetuned"]) / "report.html"
    before = kept.stat().st_ctime_ns
    lineage.sync()
    assert kept.stat().st_ctime_ns == before
    (Path("results") / "report.html").write_text("新的报告\n", encoding="utf-8")
    lineage.sync()
    assert kept.read_text(encoding="utf-8") == "新的报告\n"


def test_a_report_that_dvc_lock_does_not_list_is_not_attached(tmp_path: Path) -> None:
    result = tmp_path / "finetuned"
    write_json(result / "metrics.json", {})
    (tmp_path / "report.md").write_text("报告\n", encoding="utf-8")
    assert list(list_files(result, {})) == [result / "metrics.json"]


def test_a_re_ranker_has_runs_and_a_chart_of_what_it_cost_and_one_switched_off_has_none(project: Path) -> None:
    make_outs()
    model, result = Path("models/reranked"), Path("results/reranked")
    model.mkdir()
    manifest.write_manifest(model, {}, {"rerank": None})
    write_json(result / "metrics.json", {})
    assert not {str(model), str(result)} & lineage.sync().keys()

    shutil.copy("models/finetuned/training.json", model)
    manifest.write_manifest(model, {}, {"rerank": {"k": 4}})
    shutil.copy("results/finetuned/metrics.json", result)
    build_evaluation(result)
    details = json.loads((result / "details.json").read_text())
    curve = [{"k": k, "hit_at_1": 0.2, "hit_at_5": 0.5} for k in (1, 2, 4)]
    chosen = {"k": 4, "weight": 1.0, "sure_on_valid": False, "curve": curve}
    details |= {"score_histogram": None, "reranking": {"t2i": chosen, "i2t": chosen}}
    write_json(result / "details.json", details)
    with runs.track_run(result, {}, {}, KEPT) as run:
        for depth, cost in ((2, 7.25), (4, 13.5)):
            run.log_metrics({get_cost_name("t2i"): cost}, step=depth)
        run.finish_output(result)
    run_ids = lineage.sync()
    assert run_ids[str(result)] == run.id
    assert runs_by_out(project)[str(model)].data.params["rerank.k"] == "4"
    shown = Path(MlflowClient(runs.get_address()).download_artifacts(str(run.id), "figures"))
    names = ("depth-i2t", "depth-t2i", "gallery-i2t", "gallery-t2i")
    assert sorted(path.stem for path in shown.iterdir()) == list(names)
    charts = {name: (shown / f"{name}.svg").read_text() for name in names}
    assert all(f">{word}<" in charts["depth-t2i"] for word in ("milliseconds per query", "7.25", "13.5"))
    assert "milliseconds" not in charts["depth-i2t"]
    assert "#8a3ffc" in charts["depth-i2t"]


def build_evaluation(result: Path) -> None:
    """details.json as `evaluate` writes it."""
    points = [{"gallery": size, "hit_at_1": 1 / size, "hit_at_5": 5 / size} for size in (10, 20)]
    scores = {"edges": [-1.0, 0.0, 1.0], "true": [1, 3], "false": [8, 1]}
    hubs = {"k": 10, "top": [{"id": "猫.png", "times": 3}]}
    details = {"gallery_curve": {"t2i": points, "i2t": points}, "score_histogram": scores}
    write_json(result / "details.json", details | {"hubs": {"t2i": hubs, "i2t": hubs}})


def test_sync_takes_the_live_run_and_ties_it_to_the_lock(project: Path) -> None:
    make_outs()
    with runs.track_run(Path("models/finetuned"), {}, {}, KEPT) as run:
        run.finish_output(Path("models/finetuned"))
    (Path("results/finetuned") / ".gitignore").write_text("/ranks.parquet\n")  # DVC may write it after the stage
    run_ids = lineage.sync()
    assert run_ids["models/finetuned"] == run.id
    written = json.loads(Path("runs/lineage.json").read_text())
    assert written["runs"] == run_ids
    assert written["outs"]["finetune"] == {"models/finetuned": "0123.dir"}
    assert written["dvc_lock_sha256"] == manifest.hash_file(Path("dvc.lock"))


def test_sync_without_mlflow_says_so_and_still_writes_the_lineage(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_outs()
    monkeypatch.setenv("TUWEN_TRACKING_URI", f"http://user:geheim@127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(UserError, match=r"TUWEN_TRACKING_URI: http://\*\*\*@127.*tuwen track sync") as error:
        lineage.sync()
    assert "geheim" not in str(error.value)
    assert json.loads(Path("runs/lineage.json").read_text())["outs"]["finetune"]


def test_sync_before_anything_was_made(project: Path) -> None:
    assert lineage.sync() == {}
