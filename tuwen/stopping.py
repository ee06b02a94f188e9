"""SIGTERM while steps are made: the step under way ends first."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

SIGTERM_STATUS = 128 + signal.SIGTERM


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
