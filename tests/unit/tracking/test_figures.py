"""R@k in the run of the model, beside its settings; evaluations are its children; a new one hides no old one."""

import json
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run

from tests.support.tracking import KEPT, all_runs, curve, make_outs, runs_by_out
from tuwen.tracking import figures, lineage, runs
from tuwen.tracking.records import PARENT_TAG
from tuwen.tracking.revision import COMMIT_TAG

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlflow's, about sqlalchemy


def train(model: str, lr: float) -> Run:
    make_outs(params={"finetune": {"fit": {"lr": lr}}})
    with runs.track_run(Path("models") / model, {"finetune": {"fit": {"lr": lr}}}, {}, KEPT) as run:
        run.finish_output(Path("models") / model)
    return run


def evaluate(model: str, hit: float) -> str:
    result = Path("results") / model
    metrics: dict[str, Any] = json.loads((result / "metrics.json").read_text())
    metrics["test"] |= {"t2i_hit_at_5": hit, "t2i_unseen_hit_at_5": hit / 2}
    (result / "metrics.json").write_text(json.dumps(metrics))
    with runs.track_run(result, {"model": model}, {}, KEPT) as run:
        run.log_metrics(figures.flatten_metrics(metrics), step=0)
        run.finish_output(result)
    return str(run.id)


def test_learning_rate_and_recall_stand_in_one_row(project: Path) -> None:
    for lr, hit in ((0.0001, 0.25), (0.001, 0.75)):
        train("finetuned", lr)
        evaluate("finetuned", hit)
    mlflow.set_tracking_uri(runs.get_address())
    rows = mlflow.search_runs(
        experiment_names=[runs.EXPERIMENT],
        filter_string="tags.`tuwen.out` = 'models/finetuned' and metrics.test_t2i_R_at_5 > 0",
        order_by=["metrics.test_t2i_R_at_5 DESC"],
    )
    shown = rows[["params.finetune.fit.lr", "metrics.test_t2i_R_at_5", "metrics.test_t2i_unseen_R_at_5"]]
    assert shown.to_numpy().tolist() == [["0.001", 0.75, 0.375], ["0.0001", 0.25, 0.125]]
    assert {"metrics.test_i2t_R_at_5", "metrics.valid_t2i_R_at_5", "metrics.valid_i2t_R_at_5"} <= set(rows.columns)
    assert rows["metrics.test_i2t_R_at_5"].tolist() == [0.4, 0.4]  # hit@5, where recall@5 is 0.3


def commit(text: str) -> str:
    Path("dvc.yaml").write_text(text)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "dvc.yaml"], ["commit", "-q", "-m", text]):
        subprocess.run([*git, *arguments], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def test_a_second_evaluation_is_a_second_child_and_the_first_figure_stays_in_the_history(project: Path) -> None:
    first_code = commit("stages: {}")
    trained = train("finetuned", 0.0003)
    first = evaluate("finetuned", 0.5)
    kept = Path("results/finetuned/metrics.json").read_bytes()
    second_code = commit("stages: {}  # another measure")
    second = evaluate("finetuned", 0.25)
    Path("results/finetuned/metrics.json").write_bytes(kept)  # an older commit is checked out
    lineage.sync()
    lineage.sync()
    by_id = {run.info.run_id: run for run in all_runs(project)}
    for child, code, hit in ((first, first_code, 0.5), (second, second_code, 0.25)):
        assert by_id[child].data.tags[PARENT_TAG] == trained.id
        assert by_id[child].data.tags[COMMIT_TAG] == code
        assert by_id[child].data.metrics["test_t2i_R_at_5"] == hit
    shown = by_id[str(trained.id)]
    assert [value for _, value in curve(project, str(trained.id), "test_t2i_R_at_5")] == [0.5, 0.25]
    assert shown.data.metrics["test_t2i_R_at_5"] == 0.25
    assert shown.data.tags["tuwen.evaluation_run"] == second
    assert shown.data.tags["tuwen.evaluation_commit"] == second_code


def test_the_same_model_trained_again_shows_its_recall_too(project: Path) -> None:
    train("finetuned", 0.0003)
    evaluated = evaluate("finetuned", 0.5)
    kept = Path("results/finetuned/metrics.json").read_bytes()
    again = train("finetuned", 0.0003)  # the same bytes, so DVC evaluates nothing
    Path("results/finetuned/metrics.json").write_bytes(kept)
    run_ids = lineage.sync()
    assert (run_ids["models/finetuned"], run_ids["results/finetuned"]) == (again.id, evaluated)
    (shown,) = (run for run in all_runs(project) if run.info.run_id == again.id)
    assert shown.data.metrics["test_t2i_R_at_5"] == 0.5


def test_an_evaluation_whose_training_mlflow_missed_is_tied_to_it_by_sync(project: Path) -> None:
    make_outs()
    evaluated = evaluate("finetuned", 0.5)
    lineage.sync()
    by_out = runs_by_out(project)
    assert by_out["results/finetuned"].info.run_id == evaluated
    assert by_out["results/finetuned"].data.tags[PARENT_TAG] == by_out["models/finetuned"].info.run_id
    assert by_out["models/finetuned"].data.metrics["test_t2i_R_at_5"] == 0.5
