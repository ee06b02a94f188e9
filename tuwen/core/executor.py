"""The one seam for parallel work in several processes: `make_executor` gives a `concurrent.futures.Executor`.

Arguments and results must pickle and be small. Workers of a cluster see the same file system as this process, but
may run in another folder, so paths that are sent to them must be absolute.
"""

import multiprocessing
import os
import re
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager

from tuwen.core.cores import count_cores
from tuwen.core.errors import UserError

SCHEDULER_SECONDS = 5  # to wait for a scheduler's answer, and again for its first worker


def count_workers() -> int:
    """Return how many processes to use: TUWEN_WORKERS, or one per core. The number never changes an out.

    Raises UserError when TUWEN_WORKERS is no number from 1 on.
    """
    workers = os.environ.get("TUWEN_WORKERS") or str(count_cores())
    if not workers.isdecimal() or int(workers) < 1:
        raise UserError(f"TUWEN_WORKERS: a number of processes from 1 on is expected, got {workers!r}")
    return int(workers)


def make_executor() -> AbstractContextManager[Executor]:
    """Return, for a `with` block, a pool of `count_workers()` processes or the cluster that TUWEN_EXECUTOR names.

    TUWEN_EXECUTOR is the address of a dask scheduler, tcp://host:port. Raises UserError when it is no such
    address, when no scheduler answers there, or when the scheduler has no worker.
    Processes are spawned, not forked: a fork of a process with running torch threads can hang.
    """
    address = os.environ.get("TUWEN_EXECUTOR")
    if not address:
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(count_workers(), spawn, initializer=_end_with_parent, initargs=(os.getpid(),))
    if not re.fullmatch(r"(tcp|tls)://.+:\d+", address):
        raise UserError(f"TUWEN_EXECUTOR: tcp://host:port of a dask scheduler is expected, got {address!r}")
    return _cluster(address)


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError:
        raise UserError("TUWEN_EXECUTOR: this needs dask; `pip install distributed`, or unset it") from None
    try:
        client = Client(address, timeout=SCHEDULER_SECONDS, set_as_default=False)
    except OSError:  # a TimeoutError is one
        raise UserError(
            f"TUWEN_EXECUTOR: no dask scheduler answers at {address}; start `dask scheduler`, or unset it"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=SCHEDULER_SECONDS)
        except TimeoutError:
            raise UserError(
                f"TUWEN_EXECUTOR: the scheduler at {address} has no worker; start `dask worker {address}`"
            ) from None
        with client.get_executor() as executor:
            yield executor


def _end_with_parent(parent: int) -> None:
    """Have the kernel kill this worker when the process `parent` ends: it would wait for work for ever."""
    import ctypes
    import signal
    import sys

    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the line above
            os.kill(os.getpid(), signal.SIGKILL)
