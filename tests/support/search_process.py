"""`python -m tuwen.service` as people start it, in a project of the tests."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.support.checkout import ROOT
from tests.support.ports import free_ports, is_answering
from tests.support.server_logs import find_errors

READY_SECONDS = 180


class SearchService:
    """A running service."""

    def __init__(self, root: Path, port: int, **settings: object) -> None:
        self.address, self.log = f"http://127.0.0.1:{port}", root / f"search-{port}.log"
        variables = {f"TUWEN_SEARCH_{name.upper()}": str(value) for name, value in settings.items()}
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TUWEN_SEARCH_PORT": str(port)} | variables
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "tuwen.service"]
            self.process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)

    def wait_until_ready(self) -> None:
        """Return once it answers that it is ready."""
        deadline = time.monotonic() + READY_SECONDS
        while not is_answering(f"{self.address}/ready"):
            assert self.process.poll() is None, self.read_log()
            assert time.monotonic() < deadline, self.read_log()
            time.sleep(0.1)  # as an orchestrator asks

    def read_log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-5000:]

    def search(self, **body: object) -> httpx.Response:
        return httpx.post(f"{self.address}/search", json=body, timeout=60)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait(60)

    def wait(self, seconds: float) -> int:
        """Return the exit status. A process that does not end in time is killed, and the test fails."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@contextlib.contextmanager
def serving_searches(root: Path, **settings: object) -> Iterator[SearchService]:
    """Yield a service over the project in `root`, ready; it is killed at the end where it still runs.

    A test that passed fails all the same if the service's log reports an error.
    """
    service = SearchService(root, free_ports(1)[0], **{"rate": 0, **settings})
    try:
        service.wait_until_ready()
        yield service
        errors = find_errors([service.log])
        assert not errors, errors
    finally:
        if service.process.poll() is None:
            service.stop(signal.SIGKILL)
