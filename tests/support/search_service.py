"""The search service as a process of its own, over a project of search_project.py."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.ports import free_ports, is_answering

START_SECONDS = 180  # on a busy machine


@contextmanager
def run_search_service(root: Path, **settings: str) -> Iterator[str]:
    """Yield the address of a service in the folder `root`, once it is ready.

    settings: TUWEN_SEARCH_… variables by the rest of their names.
    """
    (port,) = free_ports(1)
    variables = {f"TUWEN_SEARCH_{name.upper()}": value for name, value in settings.items()}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TUWEN_SEARCH_PORT": str(port)} | variables
    log = root / "service.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "tuwen.service"]
        service = subprocess.Popen(command, cwd=root, env=environment, stdout=file, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_answering(f"{address}/ready"):
            assert service.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.2)  # it is another process: only its address tells
        yield address
    finally:
        service.terminate()
        try:
            service.wait(30)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()
            raise
