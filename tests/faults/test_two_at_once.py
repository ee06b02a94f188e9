"""Two `dvc repro` in one folder, and a `dvc.lock` of which a fault left the half."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests import smoke_world
from tests.faults.conftest import Whole, dvc, says
from tests.smoke_world import outs, run


@pytest.fixture
def project(whole: Whole, tmp_path: Path) -> Path:
    return shutil.copytree(whole(), tmp_path / "project", symlinks=True)


def test_the_second_run_is_told_which_process_holds_the_stage(whole: Whole, project: Path) -> None:
    with dvc(project, "repro", "--force", "--single-item", "evaluate@finetuned") as first:
        says(first, "> ")  # the stage's process runs
        os.killpg(first.pid, signal.SIGSTOP)
        second = repro(project)
        os.killpg(first.pid, signal.SIGCONT)
        said, _ = first.communicate()  # `dvc` above sets the limit
    assert first.returncode == 0, said
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
    assert refused.returncode != 0, refused.stdout  # in words that need not name the file: docs/reliability.md
    lock.unlink()
    ran = [line for line in run(project, "dvc", "repro").stdout.splitlines() if line.startswith("Running stage")]
    assert ran == ["Running stage 'report':"]  # report.md lies in git, not in the cache
    assert outs(project) == outs(whole())


def repro(project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["dvc", "repro"],
        cwd=project,
        env=smoke_world.environment(),
        capture_output=True,
        text=True,
        timeout=smoke_world.RUN_SECONDS,
    )
