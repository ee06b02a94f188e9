"""MLflow's store: out of reach or broken it hurts nothing, and several processes may open it at once."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.ports import free_ports
from tests.support.tracking import KEPT
from tuwen.tracking import runs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlflow's, about sqlalchemy


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
