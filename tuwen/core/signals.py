"""SIGTERM leaves time to put things in order; while steps are made, the one under way ends first."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

SIGTERM_STATUS = 128 + signal.SIGTERM


def exit_on_sigterm() -> None:
    """From now on SIGTERM is a SystemExit, so that every `finally` has its turn."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(SIGTERM_STATUS))


@contextlib.contextmanager
def exiting_on_sigterm() -> Iterator[None]:
    """The same inside the block, unless somebody else listens or this is not the main thread."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    exit_on_sigterm()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def sigterm() -> Iterator[list[bool]]:
    """A list that holds something once SIGTERM came; a second one ends the process at once."""
    came: list[bool] = []

    def stop(*_: object) -> None:
        if came:
            sys.exit(SIGTERM_STATUS)
        came.append(True)

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)
