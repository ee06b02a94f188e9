"""The one seam for parallel work: everything that fans out asks here for a `concurrent.futures.Executor`.

What is sent must pickle and be small. Workers of a cluster see the repository's folder and its data under the same
paths as this process (one file system), so paths that are sent to them are absolute.
"""

import multiprocessing
import os
import re
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager

from tuwen.core.errors import UserError

ANSWER_SECONDS = 5  # for a scheduler to answer, and again for its first worker


def count_workers() -> int:
    """How many processes to use: TUWEN_WORKERS, or one per core. Never changes what is written."""
    asked = os.environ.get("TUWEN_WORKERS") or str(os.cpu_count() or 1)
    if not asked.isdecimal() or int(asked) < 1:
        raise UserError(f"TUWEN_WORKERS: a number of processes from 1 on is expected, got {asked!r}")
    return int(asked)


def make_executor() -> AbstractContextManager[Executor]:
    """For a `with` block: a pool of `workers()` processes, or the cluster that TUWEN_EXECUTOR names.

    TUWEN_EXECUTOR is the address of a dask scheduler, tcp://host:port. Raises UserError when it is another kind of
    text, when nobody answers there, or when the scheduler has no worker.
    Processes are spawned, not forked: a fork of a process with running torch threads can hang.
    """
    address = os.environ.get("TUWEN_EXECUTOR")
    if not address:
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(count_workers(), spawn, initializer=_end_with, initargs=(os.getpid(),))
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
        client = Client(address, timeout=ANSWER_SECONDS, set_as_default=False)
    except OSError:  # a TimeoutError is one
        raise UserError(
            f"TUWEN_EXECUTOR: no dask scheduler answers at {address}; start `dask scheduler`, or unset it"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=ANSWER_SECONDS)
        except TimeoutError:
            raise UserError(
                f"TUWEN_EXECUTOR: the scheduler at {address} has no worker; start `dask worker {address}`"
            ) from None
        with client.get_executor() as executor:
            yield executor


def _end_with(parent: int) -> None:
    """Let this worker be killed with its parent: it would wait for work for ever."""
    import ctypes
    import signal
    import sys

    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # killed before the line above
            os.kill(os.getpid(), signal.SIGKILL)
