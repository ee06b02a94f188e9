"""MLflow runs: what they hold, how they end, that a failing MLflow hurts nothing, and that sync refills."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.support.checkout import ROOT
from tests.support.ports import free_ports
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


def test_a_raising_block_fails_the_run_and_the_error_comes_through(project: Path) -> None:
    with pytest.raises(ZeroDivisionError), runs.track_run(Path("models/baseline"), {}, {}, KEPT):
        _ = 1 / 0
    assert all_runs(project)[0].info.status == "FAILED"


def test_ctrl_c_and_sigterm_kill_the_run(project: Path) -> None:
    with pytest.raises(KeyboardInterrupt), runs.track_run(Path("models/by hand"), {}, {}, Path("by-hand")):
        raise KeyboardInterrupt
    with pytest.raises(SystemExit) as stopped, runs.track_run(Path("models/by signal"), {}, {}, Path("by-signal")):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 143
    assert {run.info.status for run in all_runs(project)} == {"KILLED"}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_resumed_training_goes_on_with_its_run(project: Path) -> None:
    with (
        contextlib.suppress(KeyboardInterrupt),
        runs.track_run(Path("models/baseline"), {"lr": 1}, {}, KEPT) as first,
    ):
        first.log_metrics({"loss": 5.0}, 1)
        raise KeyboardInterrupt
    with runs.track_run(Path("models/baseline"), {"lr": 1}, {}, KEPT) as second:
        second.log_metrics({"loss": 4.0}, 2)
    (logged,) = all_runs(project)
    assert logged.info.run_id == first.id == second.id
    assert logged.info.status == "FINISHED"
    assert curve(project, logged.info.run_id, "loss") == [(1, 5.0), (2, 4.0)]


def test_a_run_that_the_store_lost_is_made_anew(project: Path) -> None:
    for kept in ("0123456789abcdef0123456789abcdef", ""):  # the latter: killed while it was written
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(kept)
        with runs.track_run(Path("models/baseline"), {}, {}, KEPT) as run:
            pass
        assert run.id in {logged.info.run_id for logged in all_runs(project)}
    assert len(all_runs(project)) == 2


def test_a_run_that_its_user_deleted_is_not_resumed(project: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), runs.track_run(Path("models/baseline"), {}, {}, KEPT) as deleted:
        raise KeyboardInterrupt
    MlflowClient(f"sqlite:///{project}").delete_run(str(deleted.id))
    with runs.track_run(Path("models/baseline"), {}, {}, KEPT) as run:
        pass
    assert [logged.info.run_id for logged in all_runs(project)] == [run.id]


def test_work_that_succeeded_is_not_resumed(project: Path) -> None:
    for _ in range(2):
        with runs.track_run(Path("models/baseline"), {}, {}, KEPT) as run:
            assert KEPT.read_text() == run.id
        assert not KEPT.exists()
    assert len(all_runs(project)) == 2


def test_a_run_whose_name_cannot_be_kept_is_a_run_all_the_same(project: Path) -> None:
    KEPT.parent.write_text("a file is no folder")
    with runs.track_run(Path("models/baseline"), {}, {}, KEPT):
        pass
    assert all_runs(project)[0].info.status == "FINISHED"


def unusable_addresses(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "file").write_text("a file is no folder")
    (tmp_path / "not-a-database.db").write_text("一只橘猫" * 1000, encoding="utf-8")
    return {
        "closed port": f"http://user:geheim@127.0.0.1:{free_ports(1)[0]}",
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
    with runs.track_run(Path("models/baseline"), {"lr": 1}, {}, KEPT) as run:
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
    with runs.track_run(Path("models/baseline"), {}, {}, KEPT) as run:
        run.log_metrics({"loss": 2.0}, 1)
        project.write_bytes(b"not a database any more" * 50_000)
        run.log_metrics({"loss": 1.0}, 2)
        run.log_metrics({"loss": 0.5}, 3)
    printed = capfd.readouterr().err
    assert printed.count("warning: MLflow failed") == 1
    assert printed.count("\n") == 1


CONNECT = """
import sys
from tuwen.tracking import runs
runs.connect()  # all is imported, so that both are about as fast
for number in range(int(sys.argv[1])):
    runs.EXPERIMENT = f"tuwen-{number}"
    print(number, flush=True)
    sys.stdin.readline()
    print(runs.connect()[1], flush=True)
"""


@pytest.mark.parametrize("collects", [True, False])
def test_mlflow_is_opened_without_the_collector_which_is_then_as_it_was(
    project: Path, monkeypatch: pytest.MonkeyPatch, collects: bool
) -> None:
    monkeypatch.setattr("mlflow.MlflowClient", lambda **_: pytest.fail("collects") if gc.isenabled() else 1 / 0)
    (gc.enable if collects else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError):
            runs.connect()
        assert gc.isenabled() == collects
    finally:
        gc.enable()


def test_processes_that_open_a_new_store_at_once_make_its_tables_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUWEN_TRACKING_URI", f"sqlite:///{tmp_path}/new/mlflow.db")
    path = f"import sys, mlflow; sys.path.insert(0, {str(ROOT)!r}); from tuwen.tracking import runs; "
    command = [sys.executable, "-c", f"{path}print(flush=True); sys.stdin.readline(); print(runs.connect()[1])"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    all_three = [subprocess.Popen(command, **pipes) for _ in range(3)]
    for one in all_three:
        assert one.stdout.readline() == "\n"
    for one in all_three:
        one.stdin.write("\n")
        one.stdin.flush()
    ended = [one.communicate(timeout=400) for one in all_three]
    assert [one.returncode for one in all_three] == [0, 0, 0], ended
    assert len({found for found, _ in ended}) == 1


def test_two_processes_that_begin_at_once_find_the_same_experiment(project: Path) -> None:
    rounds = 5  # without care the first fails already: each creates what neither has found
    path = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {CONNECT}"
    command = [sys.executable, "-c", path, str(rounds)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found = []
    for number in range(rounds):
        assert [one.stdout.readline() for one in both if one.stdout] == [f"{number}\n"] * 2, both[0].communicate()
        for one in both:
            assert one.stdin is not None
            one.stdin.write("\n")
            one.stdin.flush()
        found.append([one.stdout.readline() for one in both if one.stdout])
    ended = [(one.communicate(timeout=300)[1], one.returncode) for one in both]
    assert [code for _, code in ended] == [0, 0], ended
    assert all(first == second for first, second in found)
    assert len({first for first, _ in found}) == rounds
