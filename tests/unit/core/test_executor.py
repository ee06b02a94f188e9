"""A pool of processes, or a Dask cluster: the same bytes, and mistakes that are named."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster

from tests.support.checkout import ROOT
from tests.support.views import AUGMENT, read_contents, write_clean
from tuwen.core import executor
from tuwen.core.errors import UserError
from tuwen.core.params import Image
from tuwen.data.augment.stored_views import augment

KILLED = """
import os
from tuwen.core.executor import make_executor
with make_executor() as pool:
    pool.submit(os.getpid).result()
    print(*pool._processes, flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A scheduler and two worker processes on this machine."""
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as started:
        yield started


@pytest.mark.parametrize("workers", ["0", "many", "-1"])
def test_a_number_of_workers_that_is_none_is_named(monkeypatch, workers: str) -> None:
    monkeypatch.setenv("TUWEN_WORKERS", workers)
    with pytest.raises(UserError, match=f"TUWEN_WORKERS: .* got '{workers}'"):
        executor.make_executor()


@pytest.mark.parametrize("address", ["127.0.0.1:8786", "http://127.0.0.1:8786", "tcp://127.0.0.1", "dask"])
def test_an_address_that_is_none_is_named(monkeypatch, address: str) -> None:
    monkeypatch.setenv("TUWEN_EXECUTOR", address)
    with pytest.raises(UserError, match=f"TUWEN_EXECUTOR: tcp://host:port .* got '{address}'"):
        executor.make_executor()


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch) -> None:
    monkeypatch.setattr(executor, "SCHEDULER_SECONDS", 1)
    monkeypatch.setenv("TUWEN_EXECUTOR", "tcp://127.0.0.1:1")  # nobody may listen there
    with (
        pytest.raises(UserError, match=r"no dask scheduler answers at tcp://127.0.0.1:1; start"),
        executor.make_executor(),
    ):
        pass


def test_a_scheduler_without_workers_is_named(monkeypatch) -> None:
    monkeypatch.setattr(executor, "SCHEDULER_SECONDS", 1)
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as idle:
        monkeypatch.setenv("TUWEN_EXECUTOR", idle.scheduler_address)
        with pytest.raises(UserError, match=r"has no worker; start `dask worker tcp://"), executor.make_executor():
            pass


def test_a_cluster_makes_the_bytes_that_a_pool_makes(tmp_path, monkeypatch, cluster: LocalCluster) -> None:
    monkeypatch.setattr("tuwen.data.augment.stored_views.PAIRS_PER_SHARD", 1)
    written = {}
    for name, setting in (
        ("pool", ("TUWEN_WORKERS", "1")),
        ("cluster", ("TUWEN_EXECUTOR", cluster.scheduler_address)),
    ):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)  # the workers of the cluster stand elsewhere
        clean = write_clean(Path("data"), {"train": [f"草地上有{n}只大熊猫" for n in range(6)]})
        with monkeypatch.context() as patch:
            patch.setenv(*setting)
            augment(clean, Path("data/augmented"), AUGMENT, Image(size_px=32))
        written[name] = read_contents(Path("data/augmented"))
    assert len(written["pool"]) == 6 + 3
    assert written["cluster"] == written["pool"]


def test_work_goes_to_the_cluster_and_its_errors_come_back(monkeypatch, cluster: LocalCluster) -> None:
    monkeypatch.setenv("TUWEN_EXECUTOR", cluster.scheduler_address)
    with executor.make_executor() as pool:
        assert {pool.submit(os.getpid).result() for _ in range(3)}.isdisjoint({os.getpid(), os.getppid()})
        assert list(pool.map(abs, [])) == []
        with pytest.raises(UserError, match="TUWEN_WORKERS"):
            list(pool.map(_fail, range(3)))
    with pytest.raises(RuntimeError):
        pool.submit(abs, 1)  # it is closed


def _fail(_: int) -> None:
    raise UserError("TUWEN_WORKERS: …")


def test_the_processes_of_a_pool_end_with_their_parent() -> None:
    environment = os.environ | {"TUWEN_WORKERS": "2"}
    ended = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    workers = [int(pid) for pid in ended.stdout.split()]
    assert workers
    left = [psutil.Process(worker) for worker in workers if psutil.pid_exists(worker)]
    assert psutil.wait_procs(left, timeout=60)[1] == []
