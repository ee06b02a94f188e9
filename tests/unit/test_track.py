"""MLflow runs: what they hold, how they end, that a failing MLflow hurts nothing, and that sync refills."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tuwen import lineage, manifest, track
from tuwen.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlflow's, about sqlalchemy


def all_runs(store: Path) -> list[Run]:
    client = MlflowClient(tracking_uri=f"sqlite:///{store}")
    experiment = client.get_experiment_by_name(track.EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id]))


def curve(store: Path, run_id: str, metric: str) -> list[tuple[int, float]]:
    history = MlflowClient(tracking_uri=f"sqlite:///{store}").get_metric_history(run_id, metric)
    return [(point.step, point.value) for point in history]


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def make_outs(params: Mapping[str, Any] | None = None) -> None:
    """Two models and their evaluations, as the stages leave them."""
    for model, loss in (("baseline", 4.0), ("finetuned", 2.0)):
        folder = Path("models") / model
        epochs = [
            {"epoch": 1, "loss": loss, "temperature": 0.07, "valid_i2t_hit_at_5": 0.1},
            {"epoch": 2, "loss": loss / 2, "temperature": 0.06, "valid_i2t_hit_at_5": 0.3},
        ]
        write_json(folder / "training.json", {"pairs": 12, "steps": 4, "epochs": epochs})
        manifest.write(folder, {}, params or {"finetune": {"fit": {"lr": 0.0004}}})
        figures = {"i2t_hit_at_5": 0.4, "i2t_recall_at_5": 0.3, "t2i_hit_at_5": 0.45, "t2i_recall_at_5": 0.35}
        test = figures | {"images": 10, "i2t_hit_at_1": loss / 10}
        write_json(Path("results") / model / "metrics.json", {"test": test, "valid": figures})
    Path("dvc.lock").write_text(
        textwrap.dedent(
            """\
            schema: '2.0'
            stages:
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


@pytest.fixture
def project(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a store of its own; the test's current directory."""
    monkeypatch.chdir(tmp_path)
    return store


def test_a_run_holds_params_curves_inputs_and_output(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "baseline")
    Path("captions.txt").write_text("一只橘猫趴在窗台上晒太阳\n", encoding="utf-8")
    params = {
        "baseline": {"fit": {"lr": 0.001, "epochs": 2}, "policy": {"text": ["shuffle_list"]}},
        "long": "猫" * 9000,
    }
    with track.run("baseline", "training", params, {"captions": Path("captions.txt")}) as run:
        run.log_metrics({"loss": 5.5, "temperature": 0.07}, 1)
        run.log_metrics({"loss": 4.5, "temperature": 0.06}, 2)
        write_json(Path("models/baseline/training.json"), {})
        manifest.write(Path("models/baseline"), {}, {})
        run.finish_output(Path("models/baseline"))
    (found,) = all_runs(project)
    assert found.info.run_id == run.id
    assert (found.info.run_name, found.info.status) == ("baseline", "FINISHED")
    assert found.data.params["baseline.fit.lr"] == "0.001"
    assert found.data.params["baseline.policy.text"] == "['shuffle_list']"
    assert set(found.data.params["long"]) == {"猫"}
    assert found.data.tags["tuwen.kind"] == "training"
    assert found.data.tags["tuwen.dvc_stage"] == "baseline"
    assert found.data.tags["tuwen.input.captions"] == manifest.file_sha256(Path("captions.txt"))
    assert found.data.tags[track.OUTPUT_TAG] == manifest.digest(Path("models/baseline"))
    assert curve(project, found.info.run_id, "loss") == [(1, 5.5), (2, 4.5)]


def test_a_training_logs_the_load_of_the_machine_and_never_waits_for_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    with track.run("baseline", "training", {}, {}) as run:
        deadline = time.monotonic() + 20
        while not curve(project, str(run.id), "system/cpu_utilization_percentage"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]
    assert all_runs(project)[0].data.metrics["system/system_memory_usage_megabytes"] > 0
    first = len(curve(project, str(run.id), "system/cpu_utilization_percentage"))
    with track.run("baseline", "training", {}, {}, resume_id=run.id):
        while len(points := curve(project, str(run.id), "system/cpu_utilization_percentage")) <= first:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert [step for step, _ in points] == list(range(len(points)))  # a resumed run goes on counting


def test_a_monitor_that_hangs_does_not_hold_the_training(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(track, "END_SECONDS", 0.2)
    released = threading.Event()
    with track.run("baseline", "training", {}, {}) as run:
        run._monitor.finish = lambda: released.wait(60)
        before = time.monotonic()
    assert time.monotonic() - before < 30
    released.set()
    assert all_runs(project)[0].info.status == "FINISHED"
    assert capfd.readouterr().err == ""


def test_the_flow_that_started_the_stage_is_tagged(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUWEN_PREFECT_FLOW_RUN", "0b5f6c1e-2c1d-4c55-9d0e-7d5d2f3f9a10")
    with track.run("evaluate-baseline", "evaluation", {}, {}):
        pass
    assert all_runs(project)[0].data.tags["tuwen.prefect_flow_run"] == "0b5f6c1e-2c1d-4c55-9d0e-7d5d2f3f9a10"


def test_no_secret_reaches_the_store(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "geheim-1", "MLFLOW_TRACKING_PASSWORD": "geheim-2"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    make_outs(params={"source": {"root": "https://user:geheim-3@example.org/pairs", "mail": "a@example.org"}})
    params = {"source": {"root": "s3://key:geh@eim-3@example.org/pairs"}}
    with track.run("baseline", "training", params, {}) as run:
        run.log_metrics({"loss": 1.0}, 1)
    lineage.sync()
    shown = {name: found.data.params for found in all_runs(project) if (name := found.info.run_name)}
    assert shown["finetuned"]["source.root"] == "https://***@example.org/pairs"
    assert shown["finetuned"]["source.mail"] == "a@example.org"
    assert [found.data.params for found in all_runs(project) if found.info.run_id == run.id] == [
        {"source.root": "s3://***@example.org/pairs"}
    ]
    kept = [project, *(path for path in Path("runs").rglob("*") if path.is_file())]
    words = (b"geheim", b"geh@eim", b"eim-3")
    written = [path for path in kept if any(word in path.read_bytes() for word in words)]
    assert written == []


def test_a_message_is_cut_after_its_password_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUWEN_TRACKING_URI", "postgresql://user:ge@heim@db.example.org/mlflow")
    said = track.explain(OSError("x" * 180 + " https://user:geheim-geheim-geheim@example.org refused"))
    assert "heim" not in said


def test_more_params_than_one_request_takes(project: Path) -> None:
    params = {"group": {f"key{number}": number for number in range(250)}}
    with track.run("baseline", "training", params, {}):
        pass
    assert len(all_runs(project)[0].data.params) == 250


def test_a_commit_and_changed_code_are_tagged(project: Path) -> None:
    Path("tuwen").mkdir()
    Path("tuwen/text.py").write_text("SIDE_WORDS = '左右'\n", encoding="utf-8")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "tuwen"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    Path("params.yaml").write_text("another: preset\n")
    with track.run("clean", "training", {}, {}):
        pass
    Path("tuwen/text.py").write_text("SIDE_WORDS = '左右东西'\n", encoding="utf-8")
    with track.run("dirty", "training", {}, {}):
        pass
    tags = {run.info.run_name: run.data.tags for run in all_runs(project)}
    assert len(tags["clean"][track.COMMIT_TAG]) == 40
    assert tags["clean"]["tuwen.git_dirty"] == "false"
    assert tags["dirty"]["tuwen.git_dirty"] == "true"


def test_a_raising_block_fails_the_run_and_the_error_comes_through(project: Path) -> None:
    with pytest.raises(ZeroDivisionError), track.run("baseline", "training", {}, {}):
        _ = 1 / 0
    assert all_runs(project)[0].info.status == "FAILED"


def test_ctrl_c_and_sigterm_kill_the_run(project: Path) -> None:
    with pytest.raises(KeyboardInterrupt), track.run("by hand", "training", {}, {}):
        raise KeyboardInterrupt
    with pytest.raises(SystemExit) as stopped, track.run("by signal", "training", {}, {}):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 143
    assert {run.info.status for run in all_runs(project)} == {"KILLED"}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_resumed_training_goes_on_with_its_run(project: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), track.run("baseline", "training", {"lr": 1}, {}) as first:
        first.log_metrics({"loss": 5.0}, 1)
        raise KeyboardInterrupt
    with track.run("baseline", "training", {"lr": 1}, {}, resume_id=first.id) as second:
        second.log_metrics({"loss": 4.0}, 2)
    (found,) = all_runs(project)
    assert found.info.run_id == first.id == second.id
    assert found.info.status == "FINISHED"
    assert curve(project, found.info.run_id, "loss") == [(1, 5.0), (2, 4.0)]


def test_a_run_that_the_store_lost_is_made_anew(project: Path) -> None:
    with track.run("baseline", "training", {}, {}, resume_id="0123456789abcdef0123456789abcdef") as run:
        pass
    assert [found.info.run_id for found in all_runs(project)] == [run.id]


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def unusable_addresses(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "file").write_text("a file is no folder")
    (tmp_path / "not-a-database.db").write_text("一只橘猫" * 1000, encoding="utf-8")
    return {
        "closed port": f"http://user:geheim@127.0.0.1:{closed_port()}",
        "no folder": f"sqlite:///{tmp_path}/file/mlflow.db",
        "a folder": f"sqlite:///{tmp_path}",
        "no database": f"sqlite:///{tmp_path}/not-a-database.db",
    }


@pytest.mark.parametrize("fault", ["closed port", "no folder", "a folder", "no database"])
def test_mlflow_out_of_reach_is_one_warning(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUWEN_TRACKING_URI", unusable_addresses(tmp_path)[fault])
    trained = []
    with track.run("baseline", "training", {"lr": 1}, {}) as run:
        for epoch in (1, 2):
            trained.append(epoch)
            run.log_metrics({"loss": 1.0}, epoch)
        run.finish_output(tmp_path)
    assert trained == [1, 2]
    assert run.id is None
    printed = capfd.readouterr().err
    assert printed.startswith("warning: MLflow failed: ")
    assert printed.count("\n") == 1
    assert "geheim" not in printed


def test_mlflow_that_breaks_midway_is_one_warning(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with track.run("baseline", "training", {}, {}) as run:
        run.log_metrics({"loss": 2.0}, 1)
        project.write_bytes(b"not a database any more" * 50_000)
        run.log_metrics({"loss": 1.0}, 2)
        run.log_metrics({"loss": 0.5}, 3)
    printed = capfd.readouterr().err
    assert printed.count("warning: MLflow failed") == 1
    assert printed.count("\n") == 1


def test_a_run_that_lost_part_of_its_record_is_not_taken_for_whole(project: Path) -> None:
    make_outs()
    with track.run("finetuned", "training", {}, {}) as run:
        whole = project.read_bytes()
        project.write_bytes(b"out of order" * 100_000)
        run.log_metrics({"loss": 1.0}, 1)
        project.write_bytes(whole)
        run.finish_output(Path("models/finetuned"))
    runs = lineage.sync()
    assert runs["models/finetuned"] != run.id
    status = {found.info.run_id: found.info.status for found in all_runs(project)}
    assert status[str(run.id)] == "FAILED"
    assert curve(project, runs["models/finetuned"], "loss") == [(1, 2.0), (2, 1.0)]


def test_sync_refills_an_empty_store_and_makes_no_run_twice(project: Path) -> None:
    make_outs()
    runs = lineage.sync()
    assert list(runs) == ["models/baseline", "models/finetuned", "results/baseline", "results/finetuned"]
    assert lineage.sync() == runs
    found = {run.info.run_name: run for run in all_runs(project)}
    assert sorted(found) == ["baseline", "evaluate-baseline", "evaluate-finetuned", "finetuned"]
    assert len(all_runs(project)) == 4
    trained, judged = found["finetuned"], found["evaluate-finetuned"]
    assert trained.data.params == {"finetune.fit.lr": "0.0004"}
    assert curve(project, trained.info.run_id, "loss") == [(1, 2.0), (2, 1.0)]
    assert curve(project, trained.info.run_id, "valid_i2t_hit_at_5") == [(1, 0.1), (2, 0.3)]
    assert trained.data.tags["tuwen.dvc_out_md5"] == "0123.dir"
    assert judged.data.params == {"model": "finetuned", "ks": "[1, 5, 10]"}
    assert judged.data.metrics["test_i2t_hit_at_5"] == 0.4
    assert judged.data.metrics["valid_t2i_hit_at_5"] == 0.45
    assert judged.data.metrics["t2i_recall_at_5"] == judged.data.metrics["test_t2i_recall_at_5"] == 0.35
    assert judged.data.metrics["i2t_recall_at_5"] == 0.3
    assert judged.data.tags["tuwen.dvc_out_md5"] == "4567"
    assert judged.data.tags["tuwen.dvc_lock_sha256"] == manifest.file_sha256(Path("dvc.lock"))


def inputs(run: Run) -> dict[str, tuple[str, str]]:
    """Name -> digest and context of a run's dataset inputs."""
    return {read.dataset.name: (read.dataset.digest, read.tags[0].value) for read in run.inputs.dataset_inputs}


def test_sync_names_what_was_read_and_which_model(project: Path) -> None:
    make_outs()
    with track.run("finetuned", "training", {}, {}) as live:
        live.finish_output(Path("models/finetuned"))
    lineage.sync()
    lineage.sync()
    found = {run.info.run_name: run for run in all_runs(project)}
    trained, judged = found["finetuned"], found["evaluate-finetuned"]
    assert trained.info.run_id == live.id
    assert inputs(trained) == {"data/augmented": ("abcd.dir", "training")}
    assert inputs(judged) == {"embeddings/finetuned/test": ("ef01.dir", "evaluation")}
    digest = manifest.digest(Path("models/finetuned"))
    for run in (trained, judged):
        assert run.data.tags["tuwen.model_md5"] == "0123.dir"
        assert run.data.tags["tuwen.model_sha256"] == digest


def attached(run_id: str, folder: str | None = None) -> set[str]:
    return {found.path for found in MlflowClient(track.address()).list_artifacts(run_id, folder)}


def test_an_evaluation_carries_its_figures_and_the_report_that_tells_of_it(project: Path) -> None:
    make_outs()
    build_evaluation(Path("results/finetuned"))
    for name in ("report.md", "report.html"):
        (Path("results") / name).write_text("报告\n", encoding="utf-8")
    runs = lineage.sync()
    files = {"metrics.json", "details.json", "figures", "report.md", "report.html"}
    assert attached(runs["results/finetuned"]) == files
    assert attached(runs["results/finetuned"], "figures") == {
        f"figures/{name}.svg" for name in ("gallery-i2t", "gallery-t2i", "scores-finetuned")
    }
    # dvc.lock has no evaluation of the baseline, so nobody knows which one the report tells of
    assert attached(runs["results/baseline"]) == {"metrics.json"}
    shown = Path(MlflowClient(track.address()).download_artifacts(runs["results/finetuned"], "figures"))
    drawn = (shown / "gallery-t2i.svg").read_text()
    assert "#0b6bcb" in drawn
    assert "var(--" not in drawn
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.html")}
    lineage.sync()
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.html")} == before
    assert len(before) == 1
    (Path("results") / "report.html").write_text("新的报告\n", encoding="utf-8")
    lineage.sync()
    assert [path.read_text(encoding="utf-8") for path in before] == ["新的报告\n"]


def build_evaluation(result: Path) -> None:
    """details.json as `evaluate` writes it."""
    points = [{"gallery": size, "hit_at_1": 1 / size, "hit_at_5": 5 / size} for size in (10, 20)]
    scores = {"edges": [-1.0, 0.0, 1.0], "true": [1, 3], "false": [8, 1]}
    hubs = {"k": 10, "top": [{"id": "猫.png", "times": 3}]}
    details = {"gallery_curve": {"t2i": points, "i2t": points}, "score_histogram": scores}
    write_json(result / "details.json", details | {"hubs": {"t2i": hubs, "i2t": hubs}})


def test_sync_takes_the_live_run_and_ties_it_to_the_lock(project: Path) -> None:
    make_outs()
    with track.run("finetuned", "training", {}, {}) as run:
        run.finish_output(Path("models/finetuned"))
    (Path("results/finetuned") / ".gitignore").write_text("/ranks.parquet\n")  # DVC may write it after the stage
    runs = lineage.sync()
    assert runs["models/finetuned"] == run.id
    written = json.loads(Path("runs/lineage.json").read_text())
    assert written["runs"] == runs
    assert written["outs"]["finetune"] == {"models/finetuned": "0123.dir"}
    assert written["dvc_lock_sha256"] == manifest.file_sha256(Path("dvc.lock"))


def test_sync_without_mlflow_says_so_and_still_writes_the_lineage(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_outs()
    monkeypatch.setenv("TUWEN_TRACKING_URI", f"http://user:geheim@127.0.0.1:{closed_port()}")
    with pytest.raises(UserError, match=r"TUWEN_TRACKING_URI: http://\*\*\*@127.*tuwen track sync") as error:
        lineage.sync()
    assert "geheim" not in str(error.value)
    assert json.loads(Path("runs/lineage.json").read_text())["outs"]["finetune"]


def test_sync_before_anything_was_made(project: Path) -> None:
    assert lineage.sync() == {}
