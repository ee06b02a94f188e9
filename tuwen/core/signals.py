"""SIGTERM leaves time to clean up: it becomes a SystemExit, or ends a training after the step under way."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

SIGTERM_STATUS = 128 + signal.SIGTERM  # the exit status that shells give to what SIGTERM ended


def exit_on_sigterm() -> None:
    """Raise SystemExit in the main thread whenever SIGTERM arrives, so that every `finally` runs."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(SIGTERM_STATUS))


@contextlib.contextmanager
def turn_sigterm_into_exit() -> Iterator[None]:
    """Do as exit_on_sigterm does, inside the block alone.

    Outside the main thread, where Python takes no signals, and where a handler is set already, nothing is done.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    exit_on_sigterm()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def watch_sigterm() -> Iterator[list[bool]]:
    """Yield a list that is empty until SIGTERM arrives, so that a loop can stop between two steps.

    A second SIGTERM raises SystemExit at once. Outside the main thread the list stays empty.
    """
    arrived: list[bool] = []

    def handle(*_: object) -> None:
        if arrived:
            sys.exit(SIGTERM_STATUS)
        arrived.append(True)

    if threading.current_thread() is not threading.main_thread():
        yield arrived
        return
    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield arrived
    finally:
        signal.signal(signal.SIGTERM, previous)
