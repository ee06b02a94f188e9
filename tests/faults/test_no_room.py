"""A disk that is full in the middle of a stage: a clear message, and nothing half-written is taken for whole."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Whole
from tests.support import smoke
from tests.support.smoke import outs, run

DISK_MB = 64


@pytest.fixture(scope="module")
def small_disk(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished project, cache and MLflow store included, on a file system of its own of DISK_MB."""
    disk = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk needs the right to mount one: {mounted.stderr.strip()}")
    try:
        yield shutil.copytree(whole(), disk / "project", symlinks=True)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


# What each needs: ingest 380 kB, augment 2,200, embed 30; finetune 600 for the model as it was, the same again for
# the trained one, which takes its place when it is whole, and more for a checkpoint.
@pytest.mark.parametrize(
    ("stage", "left_kb"),
    [("ingest", 100), ("augment", 1000), ("finetune", 1000), ("embed@finetuned-bank", 16)],
)
def test_a_stage_ends_with_a_message_and_leaves_nothing_that_counts(
    whole: Whole, small_disk: Path, stage: str, left_kb: int
) -> None:
    done = run_on_a_full_disk(small_disk, stage, left_kb)
    assert done.returncode != 0
    (message,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "no room to write" in message
    assert f"0 MB are free in {small_disk}" in message
    assert "Traceback" not in done.stderr
    status = json.loads(run(small_disk, "dvc", "status", "--json", stage).stdout)
    assert [list(change) for change in status[stage]] == [["changed outs"]]
    assert outs(small_disk) == outs(whole())  # of the run before: dvc.lock names nothing that is not whole
    run(small_disk, "dvc", "repro", "--force", "--single-item", stage)
    assert outs(small_disk) == outs(whole())


def test_a_training_without_room_for_its_checkpoint_ends_well(whole: Whole, small_disk: Path) -> None:
    done = run_on_a_full_disk(small_disk, "finetune", 1500)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be written") == 1
    assert outs(small_disk) == outs(whole())


def run_on_a_full_disk(folder: Path, stage: str, left_kb: int) -> subprocess.CompletedProcess[str]:
    """Run `stage` alone while, without its outs, only `left_kb` are free."""
    for out in outs(folder)[stage]:
        shutil.rmtree(folder / out)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    ballast, room = folder.parent / "ballast", os.statvfs(folder)
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - left_kb * 1024)
    try:
        return subprocess.run(
            ["dvc", "repro", "--force", "--single-item", stage],
            cwd=folder,
            env=smoke.environment(),
            capture_output=True,
            text=True,
            timeout=smoke.RUN_SECONDS,
        )
    finally:
        ballast.unlink()
