"""A real Milvus server: PyPI's package of its binary, in an environment of its own beside the sample's wheels.

Its etcd listens on ports of its own choice, 2379 and 2380, so one runs on a machine at a time.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_ports

VERSION = "2.3.5"
START_SECONDS = 120


def find_server() -> Path:
    """Return the server's command; the first call makes its environment from pip's index (480 MB).

    Without an index the test fails, or with ALLOW_NO_MILVUS=1 is skipped.
    """
    cache = Path(os.environ.get("TUWEN_CACHE") or Path.home() / ".cache/tuwen")
    folder = cache / f"milvus-{VERSION}"
    command = folder / "bin/milvus-server"
    if not command.is_file():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [folder / "bin/pip", "install", "--quiet", f"milvus=={VERSION}"]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            said = f"no Milvus server: pip install milvus=={VERSION} failed: {done.stderr[-300:]}"
            if os.environ.get("ALLOW_NO_MILVUS") == "1":
                pytest.skip(said)
            pytest.fail(f"{said}, or skip these tests with ALLOW_NO_MILVUS=1")
    return command


@contextmanager
def run_milvus(folder: Path) -> Iterator[str]:
    """Yield the address of a server that keeps its data in `folder`, once it answers."""
    from pymilvus import MilvusClient, MilvusException

    (port,) = free_ports(1)
    uri = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("wb") as log:
        command = [find_server(), "--data", folder, "--proxy-port", str(port)]
        output = {"stdout": log, "stderr": subprocess.STDOUT}
        server = subprocess.Popen(command, cwd=folder, start_new_session=True, **output)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                MilvusClient(uri=uri, timeout=5).list_collections()
                break
            except MilvusException:
                assert server.poll() is None, (folder / "server.log").read_text(encoding="utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.5)  # it is another process: only its address tells
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # the command is a wrapper, and leaves the server behind
        server.wait(60)
