"""The one seam for parallel work: everything that fans out asks here for a `concurrent.futures.Executor`."""

import multiprocessing
import os
from concurrent.futures import Executor, ProcessPoolExecutor

from tuwen.errors import UserError


def workers() -> int:
    """How many processes to use: TUWEN_WORKERS, or one per core. Never changes what is written."""
    asked = os.environ.get("TUWEN_WORKERS") or str(os.cpu_count() or 1)
    if not asked.isdecimal() or int(asked) < 1:
        raise UserError(f"TUWEN_WORKERS: a number of processes from 1 on is expected, got {asked!r}")
    return int(asked)


def make_executor() -> Executor:
    """A pool of `workers()` processes; use it in a `with` block.

    Processes are spawned, not forked: a fork of a process with running torch threads can hang.
    """
    return ProcessPoolExecutor(workers(), mp_context=multiprocessing.get_context("spawn"))
