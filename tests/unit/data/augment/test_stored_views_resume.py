"""A killed `augment` is resumed at the next shard, and writes what one that was never killed writes."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.support.checkout import ROOT
from tests.support.views import AUGMENT, read_contents, write_clean
from tuwen.core.params import Image as ImageParams
from tuwen.data.augment import stored_views

PAIRS = 12  # one in each shard
CAPTIONS = {"train": [f"草地上有{n}只大熊猫" for n in range(PAIRS)]}
IMAGE = ImageParams(size_px=32)
# Hand six shards to the workers of the real pool, and be killed when two of them are reported.
DRIVER = """
import contextlib, multiprocessing, os, signal, sys
from pathlib import Path
from tuwen.data.augment import stored_views
from tuwen.core.params import Image
from tuwen.core.params.data import Augment

make_executor = stored_views.make_executor

class Killed:
    def __init__(self, pool):
        self.pool = pool

    def map(self, make, numbers):
        futures = [self.pool.submit(make, number) for number in numbers[:6]]
        yield futures[0].result()
        yield futures[1].result()
        print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

@contextlib.contextmanager
def killed():
    with make_executor() as pool:
        yield Killed(pool)

stored_views.make_executor = killed
stored_views.PAIRS_PER_SHARD = 1
params = Augment.model_validate_json(sys.argv[1])
stored_views.augment(Path("data/clean"), Path("data/augmented"), params, Image(size_px=32))
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread of this process is the executor, one pair a shard."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stored_views, "PAIRS_PER_SHARD", 1)
    monkeypatch.setattr(stored_views, "make_executor", lambda: ThreadPoolExecutor(1))


def test_a_killed_run_goes_on_and_writes_the_same_bytes(tmp_path: Path, monkeypatch, capsys) -> None:
    folder = tmp_path / "killed"
    write_clean(folder / "data", CAPTIONS, side_px=200)
    ended = subprocess.run(
        [sys.executable, "-c", DRIVER, AUGMENT.model_dump_json()],
        cwd=folder,
        env=os.environ | {"TUWEN_WORKERS": "2", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    workers = [int(pid) for pid in ended.stdout.split()]
    assert len(workers) == 2
    left = [psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)]
    assert psutil.wait_procs(left, timeout=60)[1] == []  # they end with their parent

    (work,) = (folder / ".cache/augment").iterdir()
    finished = {path.stem: path.with_suffix(".tar").stat() for path in work.glob("0*.parquet")}
    assert 2 <= len(finished) <= 6
    assert not (folder / "data/augmented").exists()
    torn = min(finished)  # as if the kill had come between its two files
    (work / f"{torn}.parquet").unlink()
    del finished[torn]

    monkeypatch.chdir(folder)
    stored_views.augment(Path("data/clean"), Path("data/augmented"), AUGMENT, IMAGE)
    assert f"goes on after {len(finished)} of {PAIRS} shards" in capsys.readouterr().out
    for number, before in finished.items():  # the same file, not made again
        after = (folder / f"data/augmented/shards/{number}.tar").stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list((folder / ".cache/augment").iterdir()) == []

    write_clean(tmp_path / "whole/data", CAPTIONS, side_px=200)
    monkeypatch.chdir(tmp_path / "whole")
    stored_views.augment(Path("data/clean"), Path("data/augmented"), AUGMENT, IMAGE)
    assert "goes on" not in capsys.readouterr().out
    assert read_contents(folder / "data/augmented") == read_contents(tmp_path / "whole/data/augmented")


def test_only_the_very_same_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise InterruptedError

    monkeypatch.setattr(stored_views, "make_executor", stop)
    clean = write_clean(tmp_path / "data", {"train": ["一只大熊猫"]})
    for changed in ({}, {}, {"seed": 1}, {"jpeg_quality": 80}):
        with pytest.raises(InterruptedError):
            stored_views.augment(clean, tmp_path / "data/augmented", AUGMENT.model_copy(update=changed), IMAGE)
    with pytest.raises(InterruptedError):
        stored_views.augment(clean, tmp_path / "data/augmented", AUGMENT, ImageParams(size_px=16))
    write_clean(tmp_path / "data", {"train": ["两只大熊猫"]})
    with pytest.raises(InterruptedError):
        stored_views.augment(clean, tmp_path / "data/augmented", AUGMENT, IMAGE)
    assert len(list((tmp_path / ".cache/augment").iterdir())) == 5
