"""One `make serve` for all tests of it: its start takes longer than most of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.browser import browser as browser
from tests.support.serve import Service, make_checkout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def start(checkout: Path) -> Iterator[Callable[[], Service]]:
    started = []

    def start_one() -> Service:
        started.append(Service(checkout))
        started[-1].wait_until_up()
        return started[-1]

    yield start_one
    for service in started:
        if service.process.poll() is None:  # the test failed before its end
            service.process.terminate()
            service.process.wait(120)


@pytest.fixture(scope="session")
def service(start: Callable[[], Service]) -> Service:
    return start()
