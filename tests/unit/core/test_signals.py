"""SIGTERM, sent by this process to itself."""

import signal
import threading
from collections.abc import Iterator

import pytest

from tuwen.core.signals import SIGTERM_STATUS, exit_on_sigterm, turn_sigterm_into_exit, watch_sigterm


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    """Start with the default handler, and end with the one that was there."""
    previous = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, previous)


def test_sigterm_is_a_system_exit_with_status_143() -> None:
    exit_on_sigterm()
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == SIGTERM_STATUS == 143


def test_the_default_handler_is_back_after_the_block() -> None:
    with pytest.raises(SystemExit), turn_sigterm_into_exit():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_that_is_set_already_stays() -> None:
    with watch_sigterm() as arrived, turn_sigterm_into_exit():
        signal.raise_signal(signal.SIGTERM)
        assert arrived == [True]


def test_a_loop_sees_the_first_sigterm_and_the_second_one_exits() -> None:
    with watch_sigterm() as arrived:
        assert not arrived
        signal.raise_signal(signal.SIGTERM)
        assert arrived
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == SIGTERM_STATUS
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_outside_the_main_thread_nothing_is_installed() -> None:
    handlers = []

    def work() -> None:
        with turn_sigterm_into_exit(), watch_sigterm() as arrived:
            handlers.extend([signal.getsignal(signal.SIGTERM), arrived])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.SIG_DFL, []]
