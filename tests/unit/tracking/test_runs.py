"""MLflow runs: what they hold, the machine's load among it, and what they must not."""

import contextlib
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.support.tracking import KEPT, all_runs, artifacts, curve, make_outs, runs_by_out, write_json
from tuwen.data.formats import manifest
from tuwen.tracking import lineage, records, revision, runs, system_metrics

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlflow's, about sqlalchemy


def test_a_run_holds_params_curves_inputs_and_output(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "baseline")
    Path("captions.txt").write_text("一只橘猫趴在窗台上晒太阳\n", encoding="utf-8")
    params = {
        "baseline": {"fit": {"lr": 0.001, "epochs": 2}, "policy": {"text": ["shuffle_list"]}},
        "long": "猫" * 9000,
    }
    with runs.track_run(Path("models/baseline"), params, {"captions": Path("captions.txt")}, KEPT) as run:
        run.log_metrics({"loss": 5.5, "temperature": 0.07}, 1)
        run.log_metrics({"loss": 4.5, "temperature": 0.06}, 2)
        write_json(Path("models/baseline/training.json"), {})
        manifest.write_manifest(Path("models/baseline"), {}, {})
        run.finish_output(Path("models/baseline"))
    (logged,) = all_runs(project)
    assert logged.info.run_id == run.id
    assert (logged.info.run_name, logged.info.status) == (f"baseline {str(run.id)[:7]}", "FINISHED")
    assert logged.data.params["baseline.fit.lr"] == "0.001"
    assert logged.data.params["baseline.policy.text"] == "['shuffle_list']"
    assert set(logged.data.params["long"]) == {"猫"}
    assert logged.data.tags["tuwen.kind"] == "training"
    assert logged.data.tags["tuwen.dvc_stage"] == "baseline"
    assert logged.data.tags["tuwen.input.captions"] == manifest.hash_file(Path("captions.txt"))
    assert logged.data.tags[records.OUTPUT_TAG] == manifest.hash_path(Path("models/baseline"))
    assert curve(project, logged.info.run_id, "loss") == [(1, 5.5), (2, 4.5)]


CPU = "system/cpu_utilization_percentage"


def test_a_run_logs_the_load_of_the_machine_and_never_waits_for_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    deadline = time.monotonic() + 20
    with contextlib.suppress(KeyboardInterrupt), runs.track_run(Path("models/baseline"), {}, {}, KEPT) as run:
        while not curve(project, str(run.id), CPU):  # live, not at the end alone
            assert time.monotonic() < deadline
            time.sleep(0.05)  # MLflow's thread does not report what it has logged
        raise KeyboardInterrupt
    assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]
    assert all_runs(project)[0].data.metrics["system/system_memory_usage_megabytes"] > 0
    first = len(curve(project, str(run.id), CPU))
    with runs.track_run(Path("models/baseline"), {}, {}, KEPT):
        while len(points := curve(project, str(run.id), CPU)) <= first:
            assert time.monotonic() < deadline
            time.sleep(0.05)  # MLflow's thread does not report what it has logged
    assert [step for step, _ in points] == list(range(len(points)))  # a resumed run goes on counting


def test_a_run_shorter_than_the_interval_has_one_sample_and_a_longer_one_no_more_than_it_drew(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    psutil.cpu_percent()
    time.sleep(1)  # what was before the run does not count
    with runs.track_run(Path("results/short"), {}, {}, KEPT) as short:
        ending = time.monotonic() + 0.5
        while time.monotonic() < ending:
            pass
    ((step, percent),) = curve(project, str(short.id), CPU)
    assert step == 0
    assert percent > 0.75 * 100 / (psutil.cpu_count() or 1)  # one processor was busy
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    began = time.monotonic()
    with runs.track_run(Path("results/longer"), {}, {}, KEPT) as longer:
        while not curve(project, str(longer.id), CPU):
            assert time.monotonic() < began + 30
            time.sleep(0.05)  # MLflow's thread does not report what it has logged
    assert len(curve(project, str(longer.id), CPU)) <= time.monotonic() - began  # one a second


def test_a_monitor_that_hangs_does_not_hold_the_training(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(system_metrics, "MONITOR_SECONDS", 0.2)
    released = threading.Event()
    with runs.track_run(Path("models/baseline"), {}, {}, KEPT) as run:
        run._monitor.finish = lambda: released.wait(60)
        before = time.monotonic()
    assert time.monotonic() - before < 30
    released.set()
    assert all_runs(project)[0].info.status == "FINISHED"
    assert capfd.readouterr().err == ""


def test_the_flow_that_started_the_stage_is_tagged(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUWEN_PREFECT_FLOW_RUN", "0b5f6c1e-2c1d-4c55-9d0e-7d5d2f3f9a10")
    with runs.track_run(Path("results/baseline"), {}, {}, KEPT):
        pass
    assert all_runs(project)[0].data.tags["tuwen.prefect_flow_run"] == "0b5f6c1e-2c1d-4c55-9d0e-7d5d2f3f9a10"


def test_no_secret_reaches_the_store(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "geheim-1", "MLFLOW_TRACKING_PASSWORD": "geheim-2"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    make_outs(params={"source": {"root": "https://user:geheim-3@example.org/pairs", "mail": "a@example.org"}})
    params = {"source": {"root": "s3://key:geh@eim-3@example.org/pairs"}}
    with runs.track_run(Path("models/baseline"), params, {}, KEPT) as run:
        run.log_metrics({"loss": 1.0}, 1)
    lineage.sync()
    shown = {logged.data.tags[records.OUT_TAG]: logged.data.params for logged in all_runs(project)}
    assert shown["models/finetuned"]["source.root"] == "https://***@example.org/pairs"
    assert shown["models/finetuned"]["source.mail"] == "a@example.org"
    assert [logged.data.params for logged in all_runs(project) if logged.info.run_id == run.id] == [
        {"source.root": "s3://***@example.org/pairs"}
    ]
    folders = [Path("runs"), *(artifacts(logged.info.run_id) for logged in all_runs(project))]
    kept = [project, *(path for folder in folders for path in folder.rglob("*") if path.is_file())]
    assert {"metrics.json", "lineage.json"} <= {path.name for path in kept}
    words = (b"geheim", b"geh@eim", b"eim-3")
    written = [path for path in kept if any(word in path.read_bytes() for word in words)]
    assert written == []


def test_a_message_is_cut_after_its_password_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUWEN_TRACKING_URI", "postgresql://user:ge@heim@db.example.org/mlflow")
    message = runs.explain(OSError("x" * 180 + " https://user:geheim-geheim-geheim@example.org refused"))
    assert "heim" not in message


def test_more_params_than_one_request_takes(project: Path) -> None:
    params = {"group": {f"key{number}": number for number in range(250)}}
    with runs.track_run(Path("models/baseline"), params, {}, KEPT):
        pass
    assert len(all_runs(project)[0].data.params) == 250


def test_a_commit_and_changed_code_are_tagged(project: Path) -> None:
    Path("tuwen").mkdir()
    Path("tuwen/text.py").write_text("SIDE_WORDS = '左右'\n", encoding="utf-8")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "tuwen"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    Path("params.yaml").write_text("another: preset\n")
    with runs.track_run(Path("models/clean"), {}, {}, KEPT):
        pass
    Path("tuwen/text.py").write_text("SIDE_WORDS = '左右东西'\n", encoding="utf-8")
    with runs.track_run(Path("models/dirty"), {}, {}, KEPT):
        pass
    tags = {out: run.data.tags for out, run in runs_by_out(project).items()}
    assert len(tags["models/clean"][revision.COMMIT_TAG]) == 40
    assert tags["models/clean"]["tuwen.git_dirty"] == "false"
    assert tags["models/dirty"]["tuwen.git_dirty"] == "true"
