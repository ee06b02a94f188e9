"""How MLflow runs end, and which of them a training goes on with."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.tracking import KEPT, all_runs, curve
from tuwen.tracking import runs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlflow's, about sqlalchemy


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
