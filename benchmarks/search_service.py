"""The search service against `mlflow models serve`, its store at 50,000 and a million, start, memory, swap.

    .venv/bin/python benchmarks/search_service.py [clients] [store] [start] [growth] [swap] [--tiny]

Run it alone, from a checkout whose index stands (`dvc repro index`). Closed loops: each client asks as soon as it
is answered, at most a minute. `clients` saves the checkout's model, with the vectors of the index, for MLflow.
--tiny: a few seconds and rows, to find a mistake.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import numpy as np
from search_load import BEARER, ask_in_loops, find_port, post, read_captions, serve_ours, serving
from search_store import time_store

ROOT, K = Path(__file__).parents[1], 10
CLIENTS = (1, 8, 32)


class Sizes:
    """How much is done."""

    def __init__(self, tiny: bool) -> None:
        self.seconds = 0.5 if tiny else 60.0
        self.rows = (2_000, 5_000) if tiny else (50_000, 1_000_000)
        self.growth = 500 if tiny else 100_000
        self.swap = 200 if tiny else 5_000


def show(name: str, value: str, target: str = "") -> None:
    """Print one line of the table."""
    print(f"| {name} | {value} | {target} |", flush=True)


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
        shutil.copy(f"index/{side}.npy", gallery)
        table = pa.ipc.open_file(pa.memory_map(f"index/{side}.arrow")).read_all()
        ids[side] = table["id"].to_pylist()
    (gallery / "ids.json").write_text(json.dumps(ids), encoding="utf-8")
    mlflow.pyfunc.save_model(
        str(folder / "model"),
        python_model=served_model.__file__,
        artifacts={"model": str(choose_answering_model(Path("models"))), "gallery": str(gallery)},
        code_paths=[str(ROOT / "tuwen")],
        signature=served_model._signature(K),
        pip_requirements=[],
    )
    return folder / "model"


def bench_store(sizes: Sizes) -> None:
    """Time the exact store alone, query by query and by 32, with a filter and without."""
    for rows, most_ms in zip(sizes.rows, (6, 80), strict=True):
        for dtype in ("float32", "int8"):
            for name, milliseconds in time_store(rows, dtype):
                target = f"< {most_ms} ms" if name == "a query" else ""
                show(f"store, {rows:,} x 512 {dtype}, {name}", f"{milliseconds:.2f} ms", target)


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
    for name in asked.parts or parts:
        parts[name](Sizes(asked.tiny))


if __name__ == "__main__":
    main()
