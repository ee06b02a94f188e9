"""Servers as processes, and clients that ask them in closed loops: what search_service.py measures by."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil

TOKEN = "benchmark of the service"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
READY_SECONDS = 300


def find_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@contextlib.contextmanager
def serving(command: list[str], health: str, port: int, **environment: str) -> Iterator[psutil.Process]:
    """Run a server in the working directory until the block ends; yield its process once it answers."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # mlflow calls uvicorn by name
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env=os.environ | {"PATH": path} | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not is_up(f"http://127.0.0.1:{port}{health}"):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    sys.exit(log.read().decode(errors="replace")[-3000:])
                time.sleep(0.05)
            yield psutil.Process(process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            process.wait(60)


def is_up(address: str) -> bool:
    """Whether a server answers."""
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(address, timeout=2).is_success
    return False


def serve_ours(port: int) -> contextlib.AbstractContextManager[psutil.Process]:
    """Run the service over the index of the working directory."""
    variables = {"PORT": str(port), "RATE": "0", "TOKEN": TOKEN}
    environment = {f"TUWEN_SEARCH_{name}": value for name, value in variables.items()}
    return serving([sys.executable, "-m", "tuwen.service"], "/ready", port, **environment)


def read_captions() -> list[str]:
    """Return the texts of the index, which are asked."""
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map("index/texts.arrow")).read_all()
    return [caption for caption in table["caption"].to_pylist() if caption]


async def post(client: aiohttp.ClientSession, address: str, body: dict[str, Any] | None = None) -> int:
    """Return the status of an answer that was read whole."""
    async with client.post(address, json=body) as answer:
        await answer.read()
        return answer.status


async def ask_in_loops(address: str, bodies: list[dict[str, Any]], clients: int, seconds: float) -> list[float]:
    """Return the seconds of every answer that `clients` got, one after another each."""
    spent: list[float] = []
    end = time.monotonic() + seconds

    async def ask(client: aiohttp.ClientSession, number: int) -> None:
        turn = number
        while time.monotonic() < end:
            start = time.monotonic()
            await post(client, address, bodies[turn % len(bodies)])
            spent.append(time.monotonic() - start)
            turn += clients

    async with aiohttp.ClientSession(headers=BEARER, raise_for_status=True) as client:
        await ask_once(client, address, bodies)
        await asyncio.gather(*(ask(client, number) for number in range(clients)))
    return spent


async def ask_once(client: aiohttp.ClientSession, address: str, bodies: list[dict[str, Any]]) -> None:
    """Let the server import and allocate what it does at its first answers."""
    for body in bodies[:8]:
        await post(client, address, body)
