"""An index of a million pairs by the stage's own code: built, opened, searched and served, on this machine.

    python -m benchmarks.million_index FOLDER [make] [float32] [int8] [binary] [--pairs 1000000]

`make` writes the project into FOLDER (4.5 GB at a million), which stays (million_project.py); each dtype then
builds its index there, opens it and serves it, each step in a process of its own. Run it alone.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.made_vectors import draw_queries
from benchmarks.million_project import SETS, make_project
from benchmarks.search_load import BEARER, TOKEN, find_port, serving

DTYPES = ("float32", "int8", "binary")
K, TRUE_K, DEEP, QUERIES, WARM = 50, 10, 200, 100, 5
FEW = {"category": ["类3"]}  # a tenth of the items
SETTINGS: dict[str, Any] = {"sets": list(SETS), "store": {"kind": "exact"}, "licences": []}


def build(root: Path, dtype: str) -> None:
    """Build the index of this dtype by the stage's code."""
    from tuwen.core.params import Embed, Index
    from tuwen.service.index.build import Project, write_index

    out = Path(f"index-{dtype}")
    with chdir(root):
        shutil.rmtree(out, ignore_errors=True)
        folders = (Path(name) for name in ("data", "models", "embeddings", "results"))
        embed = Embed.model_validate({"batch_size": 64, "dtype": dtype})
        start = time.monotonic()
        write_index(Project(*folders), out, Index.model_validate(SETTINGS), embed)
        seconds = time.monotonic() - start
        size = sum(path.stat().st_size for path in out.iterdir()) / 1e9
    print(f"{dtype}: built in {seconds:.1f} s, peak {read_memory('VmHWM')} GB; {size:.2f} GB on disk", flush=True)


def search(root: Path, dtype: str) -> None:
    """Open the index and its store, and count how many of the true first ten of float64 products are found."""
    from tuwen.service.index.exact import ExactStore
    from tuwen.service.index.item_index import ItemIndex
    from tuwen.service.index.store import ItemFilter

    start = time.monotonic()
    index = ItemIndex(root / f"index-{dtype}")
    opened, held = time.monotonic() - start, read_memory("RssAnon")
    store = ExactStore(index)
    seconds = time.monotonic() - start - opened
    queries = read_queries(root, "texts")
    hits = store.search("images", queries, TRUE_K, ItemFilter())
    true = find_nearest(root, queries)
    recall = np.mean([np.isin(one.rows, rows).mean() for one, rows in zip(hits, true, strict=True)])
    print(f"{dtype}: index opened in {opened:.1f} s, {held} GB of its own; store in {seconds:.1f} s", flush=True)
    print(f"{dtype}: recall@{TRUE_K} {recall:.4f} of {len(queries)} queries", flush=True)


def read_queries(root: Path, side: str) -> Any:
    """Return queries near vectors of the larger set."""
    vectors = np.load(root / f"embeddings/finetuned/bank/{side}.npy", mmap_mode="r")
    return draw_queries(vectors, QUERIES)


def find_nearest(root: Path, queries: Any) -> Any:
    """Return the rows of the images with the greatest float64 products, [Q, TRUE_K], block by block."""
    best, first = np.full((len(queries), TRUE_K), -2.0), 0
    rows = np.zeros((len(queries), TRUE_K), np.int64)
    for name in SETS:
        vectors = np.load(root / f"embeddings/finetuned/{name}/images.npy", mmap_mode="r")
        for start in range(0, len(vectors), 20_000):
            block = vectors[start : start + 20_000].astype(np.float64)
            scores = np.concatenate([best, queries.astype(np.float64) @ block.T], axis=1)
            numbers = np.broadcast_to(first + start + np.arange(len(block)), (len(queries), len(block)))
            among = np.argpartition(-scores, TRUE_K - 1, axis=1)[:, :TRUE_K]
            best = np.take_along_axis(scores, among, axis=1)
            rows = np.take_along_axis(np.concatenate([rows, numbers], axis=1), among, axis=1)
        first += len(vectors)
    return rows


def serve(root: Path, dtype: str) -> None:
    """Start the service over the index and ask it, one request after another."""
    port, start = find_port(), time.monotonic()
    folders = {"MODEL": root / "models/finetuned", "INDEX": root / f"index-{dtype}", "DATA": root / "data"}
    environment = {f"TUWEN_SEARCH_{name}": str(value) for name, value in folders.items()}
    environment |= {"TUWEN_SEARCH_PORT": str(port), "TUWEN_SEARCH_RATE": "0", "TUWEN_SEARCH_TOKEN": TOKEN}
    command = [sys.executable, "-m", "tuwen.service"]
    with serving(command, "/ready", port, **environment) as process, httpx.Client(headers=BEARER) as client:
        print(f"{dtype}: start to ready {time.monotonic() - start:.1f} s", flush=True)
        for name, bodies in list_questions(root):
            spent = []
            for body in bodies:
                start = time.monotonic()
                client.post(f"http://127.0.0.1:{port}/search", json=body, timeout=60).raise_for_status()
                spent.append(1000 * (time.monotonic() - start))
            p50, p95 = np.quantile(spent[WARM:], (0.5, 0.95))
            print(f"{dtype}: {name}: p50 {p50:.1f} ms, p95 {p95:.1f} ms", flush=True)
        kinds = ("VmRSS", "RssAnon", "RssFile", "VmHWM")
        print(f"{dtype}: memory", {kind: read_memory(kind, process.pid) for kind in kinds}, "GB", flush=True)


def list_questions(root: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield what is asked, and the bodies of its requests."""
    vectors = [{"text_vector": query.tolist(), "k": K} for query in read_queries(root, "texts")]
    items = [{"image_id": f"{row:07d}", "k": K, "of": "images"} for row in range(QUERIES)]
    yield "text vector", vectors
    yield "image id", items
    yield "text vector, filtered", [body | {"filter": FEW} for body in vectors]
    yield "image id, filtered", [body | {"filter": FEW} for body in items]
    yield f"text vector, offset {DEEP}", [body | {"offset": DEEP} for body in vectors]


def read_memory(kind: str, process: int | str = "self") -> str:
    """Return a line of a process's status, in GB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{kind}:"))
    return f"{int(value) * 1024 / 1e9:.2f}"


def main() -> None:
    """Run the steps that are named, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of make, {', '.join(DTYPES)}; all if none")
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    if asked.step:
        step, dtype = json.loads(asked.step)
        globals()[step](folder, dtype)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for part in asked.parts or ("make", *DTYPES):
        if part == "make":
            make_project(folder, asked.pairs)
            continue
        for step in (build, search, serve):
            command = [sys.executable, "-m", "benchmarks.million_index", str(folder)]
            subprocess.run([*command, "--step", json.dumps([step.__name__, part])], check=True, env=os.environ)


if __name__ == "__main__":
    main()
