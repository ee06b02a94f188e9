"""Two `dvc repro` in one folder, and DVC's own files of which a fault left half."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from flows.repro import bring_up_to_date, read_status
from tests.faults.conftest import Whole, dvc, read_until
from tests.support import smoke
from tests.support.smoke import outs, run
from tuwen.core.errors import UserError


@pytest.fixture
def project(whole: Whole, tmp_path: Path) -> Path:
    return shutil.copytree(whole(), tmp_path / "project", symlinks=True)


def test_the_second_run_names_the_process_that_holds_the_stage(whole: Whole, project: Path) -> None:
    with dvc(project, "repro", "--force", "--single-item", "evaluate@finetuned") as first:
        read_until(first, "> ")  # the stage's process runs
        os.killpg(first.pid, signal.SIGSTOP)
        second = repro(project)
        os.killpg(first.pid, signal.SIGCONT)
        output, _ = first.communicate()  # `dvc` above sets the limit
    assert first.returncode == 0, output
    assert second.returncode != 0
    assert f"(PID {first.pid}): " in second.stderr
    assert "is busy" in second.stderr
    assert "Running stage" not in run(project, "dvc", "repro").stdout
    assert outs(project) == outs(whole())


def test_half_a_dvc_lock_is_refused_and_without_it_the_cache_has_all(whole: Whole, project: Path) -> None:
    lock = project / "dvc.lock"  # DVC writes it in place
    written = lock.read_text()
    lock.write_text(written[: written.index("md5", len(written) // 2) + 2])
    refused = repro(project)
    assert refused.returncode != 0, refused.stdout  # the message need not name the file: docs/reliability.md
    lock.unlink()
    ran = [line for line in run(project, "dvc", "repro").stdout.splitlines() if line.startswith("Running stage")]
    assert ran == ["Running stage 'report':"]  # report.md lies in git, not in the cache
    assert outs(project) == outs(whole())


LONGER_THAN_DVC_SECONDS = 8  # without --wait-for-lock it gives up after three
ONE_STAGE = "stages: {one: {cmd: echo 一只橘猫 > one.txt, outs: [one.txt]}}\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository with one stage that never ran."""
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (tmp_path / "dvc.yaml").write_text(ONE_STAGE, encoding="utf-8")
    return tmp_path


def make_rwlock(folder: Path, pid: int) -> str:
    """Return the text of a .dvc/tmp/rwlock in which that process holds the stage's out."""
    return json.dumps({"write": {str(folder / "one.txt"): {"pid": pid, "cmd": "dvc repro"}}, "read": {}})


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["nothing", "half"])
def test_half_an_rwlock_is_refused_by_name_and_without_it_all_goes_on(small: Path, share: float) -> None:
    rwlock, whole = small / ".dvc/tmp/rwlock", make_rwlock(small, os.getpid())
    rwlock.write_text(whole[: int(share * len(whole))])
    refused = repro(small)
    assert refused.returncode != 0
    assert "Unable to read RWLock-file '.dvc/tmp/rwlock'" in refused.stderr
    assert "Traceback" not in refused.stderr
    with pytest.raises(UserError, match=r"^dvc status: ERROR: Unable to read RWLock-file '.dvc/tmp/rwlock'"):
        read_status(small)  # where a flow begins
    assert not (small / "one.txt").exists()
    rwlock.unlink()
    run(small, "dvc", "repro")
    assert (small / "one.txt").read_text(encoding="utf-8") == "一只橘猫\n"


def test_the_locks_of_a_dvc_that_was_killed_hold_nothing_up(small: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    (small / ".dvc/tmp/rwlock").write_text(make_rwlock(small, gone.pid))
    for name in ("lock", "rwlock.lock"):  # the kernel's lock on them died with the process
        (small / ".dvc/tmp" / name).write_text(f" {gone.pid}\n")
    done = run(small, "dvc", "repro")
    assert "had been killed. Auto removed it from the lock file" in done.stderr
    assert (small / "one.txt").is_file()
    assert json.loads((small / ".dvc/tmp/rwlock").read_text()) == {"read": {}}


def test_a_flow_waits_as_long_as_dvc_is_busy(small: Path) -> None:
    with ThreadPoolExecutor() as pool, disable_run_logger():
        with open(small / ".dvc/tmp/lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # as DVC takes it
            begun = [pool.submit(read_status, small), pool.submit(bring_up_to_date.fn, "one", folder=small)]
            assert wait(begun, timeout=LONGER_THAN_DVC_SECONDS).done == set()
        assert [one.exception(timeout=300) for one in begun] == [None, None]
    assert begun[1].result() is None  # not Prefect's state of a failure
    assert (small / "one.txt").is_file()


def repro(project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["dvc", "repro"],
        cwd=project,
        env=smoke.environment(),
        capture_output=True,
        text=True,
        timeout=smoke.RUN_SECONDS,
    )
