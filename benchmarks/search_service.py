"""The search service against `mlflow models serve`, its store at 50,000 and a million, start, memory, swap.

    .venv/bin/python benchmarks/search_service.py [clients] [store] [start] [growth] [swap] [--tiny]

Run it alone, in a checkout whose index stands (`dvc repro index`). Closed loops: each client asks as soon as it is
answered, at most a minute. `clients` saves the model of the checkout, with the vectors of the index, for MLflow.
--tiny: a few seconds and rows, to find a mistake.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx
import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
K = 10
CLIENTS = (1, 8, 32)
TOKEN = "benchmark of the service"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
READY_SECONDS = 300


class Sizes:
    """How much is done."""

    def __init__(self, tiny: bool) -> None:
        self.seconds = 2.0 if tiny else 60.0
        self.rows = (2_000, 5_000) if tiny else (50_000, 1_000_000)
        self.growth = 500 if tiny else 100_000
        self.swap = 200 if tiny else 5_000


def show(name: str, value: str, target: str = "") -> None:
    """Print one line of the table."""
    print(f"| {name} | {value} | {target} |", flush=True)


def find_port() -> int:
    """Return a port on which nobody listens."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@contextlib.contextmanager
def serving(command: list[str], health: str, port: int, **environment: str) -> Iterator[psutil.Process]:
    """Run a server until the block ends; yield its process once it answers."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # mlflow calls uvicorn by name
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
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
    """Run the service over the checkout's index."""
    variables = {"PORT": str(port), "RATE": "0", "TOKEN": TOKEN}
    environment = {f"TUWEN_SEARCH_{name}": value for name, value in variables.items()}
    return serving([sys.executable, "-m", "tuwen.service"], "/ready", port, **environment)


def read_captions() -> list[str]:
    """Return the texts of the index, which are asked."""
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(ROOT / "index/texts.arrow"))).read_all()
    return [caption for caption in table["caption"].to_pylist() if caption]


async def post(client: aiohttp.ClientSession, address: str, body: dict | None = None) -> int:
    """Return the status of an answer that was read whole."""
    async with client.post(address, json=body) as answer:
        await answer.read()
        return answer.status


async def ask_in_loops(address: str, bodies: list[dict], clients: int, seconds: float) -> list[float]:
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


async def ask_once(client: aiohttp.ClientSession, address: str, bodies: list[dict]) -> None:
    """Let the server import and allocate what it does at its first answers."""
    for body in bodies[:8]:
        await post(client, address, body)


def run_loops(name: str, address: str, bodies: list[dict], sizes: Sizes) -> dict[int, float]:
    """Print p50, p95 and queries a second at 1, 8 and 32 clients; return the last by clients."""
    rates = {}
    for clients in CLIENTS:
        start = time.monotonic()
        spent = asyncio.run(ask_in_loops(address, bodies, clients, sizes.seconds))
        rates[clients] = len(spent) / (time.monotonic() - start)
        p50, p95 = (1000 * float(np.percentile(spent, share)) for share in (50, 95))
        target = "p95 < 150 ms" if clients == max(CLIENTS) and name == "tuwen.service" else ""
        show(f"{name}, {clients} clients", f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, {rates[clients]:.0f}/s", target)
    return rates


def bench_clients(sizes: Sizes) -> None:
    """Compare with the same model and gallery behind `mlflow models serve`."""
    captions = read_captions()
    port = find_port()
    with serve_ours(port):
        bodies = [{"text": caption, "k": K} for caption in captions]
        ours = run_loops("tuwen.service", f"http://127.0.0.1:{port}/search", bodies, sizes)
    with tempfile.TemporaryDirectory() as folder:
        model = log_pyfunc(Path(folder))
        port = find_port()
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "models",
            "serve",
            "--model-uri",
            str(model),
            "--port",
            str(port),
        ]
        with serving([*command, "--env-manager", "local", "--workers", "1"], "/health", port):
            rows = [
                {"dataframe_records": [{"text": caption, "image": None}], "params": {"k": K}}
                for caption in captions
            ]
            theirs = run_loops("mlflow models serve", f"http://127.0.0.1:{port}/invocations", rows, sizes)
    most = max(CLIENTS)
    show(f"throughput at {most} clients", f"{ours[most] / theirs[most]:.1f} times", ">= 5")


def log_pyfunc(folder: Path) -> Path:
    """Save the checkout's model, with the images and texts of the index as its gallery, as MLflow serves it."""
    import mlflow
    import pyarrow as pa

    from tuwen.service.index.build import choose_answering_model
    from tuwen.tracking import served_model

    gallery, ids = folder / "gallery", {}
    gallery.mkdir()
    for side in ("images", "texts"):
        shutil.copy(ROOT / f"index/{side}.npy", gallery)
        table = pa.ipc.open_file(pa.memory_map(str(ROOT / f"index/{side}.arrow"))).read_all()
        ids[side] = table["id"].to_pylist()
    (gallery / "ids.json").write_text(json.dumps(ids), encoding="utf-8")
    mlflow.pyfunc.save_model(
        str(folder / "model"),
        python_model=served_model.__file__,
        artifacts={"model": str(choose_answering_model(ROOT / "models")), "gallery": str(gallery)},
        code_paths=[str(ROOT / "tuwen")],
        signature=served_model._signature(K),
        pip_requirements=[],
    )
    return folder / "model"


class MadeIndex:
    """Random unit vectors on disk, as an index has them, and an item's source for each."""

    def __init__(self, folder: Path, rows: int) -> None:
        import pyarrow as pa

        from tuwen.service.index.items import ITEM_SCHEMA

        draw, path = np.random.default_rng(0), folder / f"{rows}.npy"
        made = np.lib.format.open_memmap(path, "w+", np.float32, (rows, 512))
        for start in range(0, rows, 10_000):
            block = draw.normal(size=(min(10_000, rows - start), 512)).astype(np.float32)
            made[start : start + 10_000] = block / np.linalg.norm(block, axis=1, keepdims=True)
        made.flush()
        vectors = np.load(path, mmap_mode="c")
        nulls = {name: pa.nulls(rows, ITEM_SCHEMA.field(name).type) for name in ITEM_SCHEMA.names}
        nulls["source"] = pa.array(["art" if n % 10 else "labelled" for n in range(rows)])
        table = pa.table(nulls, schema=ITEM_SCHEMA)
        self.vectors, self.tables = {"images": vectors, "texts": vectors}, {"images": table, "texts": table}


def bench_store(sizes: Sizes) -> None:
    """Time the exact store alone, query by query and by 32, with a filter and without."""
    import torch

    from tuwen.service.index.exact import ExactStore
    from tuwen.service.index.store import ItemFilter

    torch.set_num_threads(1)  # as the service does
    with tempfile.TemporaryDirectory() as folder:
        for rows, target in zip(sizes.rows, (6, 80), strict=True):
            store = ExactStore(MadeIndex(Path(folder), rows))  # type: ignore[arg-type]
            queries = np.random.default_rng(1).normal(size=(64, 512)).astype(np.float32)
            queries /= np.linalg.norm(queries, axis=1, keepdims=True)
            few = ItemFilter(values=(("source", ("labelled",)),))
            for name, keep, step in (("", ItemFilter(), 1), (" of 32", ItemFilter(), 32), (", filtered", few, 1)):
                spent = []
                for turn in range(0, 64, step):
                    start = time.monotonic()
                    store.search("images", queries[turn : turn + step], K, keep)
                    spent.append((time.monotonic() - start) / step)
                p50 = 1000 * float(np.median(spent))
                show(f"store, {rows:,} x 512, a query{name}", f"{p50:.2f} ms", "" if name else f"< {target} ms")
            store.drop()


def bench_start(sizes: Sizes) -> None:
    """Time the start, and read the memory of an idle service and of one that was asked."""
    port, start = find_port(), time.monotonic()
    with serve_ours(port) as process:
        show("start to ready", f"{time.monotonic() - start:.1f} s", "< 10 s")
        bodies = [{"text": caption, "k": K} for caption in read_captions()]
        asyncio.run(ask_in_loops(f"http://127.0.0.1:{port}/search", bodies, 32, min(10.0, sizes.seconds)))
        show("memory after a load", f"{process.memory_info().rss / 2**30:.2f} GiB", "< 1.2")


def bench_growth(sizes: Sizes) -> None:
    """Read the memory after a tenth of many queries and after all."""
    port, captions = find_port(), read_captions()

    async def ask(count: int) -> None:
        left = iter(range(count))

        async def work(client: aiohttp.ClientSession) -> None:
            for turn in left:
                body = {"text": captions[turn % len(captions)], "k": K}
                await post(client, f"http://127.0.0.1:{port}/search", body)

        async with aiohttp.ClientSession(headers=BEARER, raise_for_status=True) as client:
            await asyncio.gather(*(work(client) for _ in range(32)))

    with serve_ours(port) as process:
        asyncio.run(ask(sizes.growth // 10))
        before = process.memory_info().rss
        asyncio.run(ask(sizes.growth - sizes.growth // 10))
        grown = process.memory_info().rss / before - 1
        show(f"growth over {sizes.growth:,} queries", f"{grown:+.1%} of {before / 2**20:.0f} MiB", "<= 5 %")


def bench_swap(sizes: Sizes) -> None:
    """Reload again and again while clients ask; count what fails."""
    port, captions = find_port(), read_captions()
    failed, swaps = 0, 0

    async def run() -> None:
        nonlocal failed, swaps
        left = iter(range(sizes.swap))

        async def work(client: aiohttp.ClientSession) -> None:
            nonlocal failed
            for turn in left:
                body = {"text": captions[turn % len(captions)], "k": K}
                failed += await post(client, f"http://127.0.0.1:{port}/search", body) != 200

        async with aiohttp.ClientSession(headers=BEARER) as client:
            working = asyncio.gather(*(work(client) for _ in range(8)))
            while not working.done():
                assert await post(client, f"http://127.0.0.1:{port}/reload") == 200
                swaps += 1
            await working

    with serve_ours(port):
        asyncio.run(run())
    show(f"failed of {sizes.swap:,} under {swaps} swaps", str(failed), "0")


def main() -> None:
    """Run the parts that are named, or all."""
    parts = {name.removeprefix("bench_"): part for name, part in globals().items() if name.startswith("bench_")}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(parts)}; all if none is named")
    parser.add_argument("--tiny", action="store_true", help="to find a mistake")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(parts):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    os.chdir(ROOT)
    for name in asked.parts or parts:
        parts[name](Sizes(asked.tiny))


if __name__ == "__main__":
    main()
