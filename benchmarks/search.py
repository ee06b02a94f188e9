"""Exact search against faiss, the bare product and cn_clip's procedure, in one run: ratios, seconds, memory.

    .venv/bin/python benchmarks/search.py [independent] [copies] [cn_clip]

Run it alone on the machine; it needs the extra `bench`. 50,000 images and texts of 512 dimensions are made here,
k = 10, and every id is compared with a float64 product of the stored vectors.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import faiss
import numpy as np
import torch

from tuwen.retrieval import search, shortlist

ROWS = 50_000
DIMENSIONS = 512
K = 10
COPIES = 80
NOISE = 1e-3  # length of what tells a copy from its original
CERTAIN = 1e-12  # a float64 product of unit vectors errs by less
QUERIES_TIMED = 500  # of cn_clip's procedure
CN_CLIP_BATCH = 32768


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1, float32."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def independent(seed: int) -> np.ndarray:
    """Return random directions."""
    return unit(np.random.default_rng(seed).normal(size=(ROWS, DIMENSIONS)).astype(np.float32))


def near_copies(seed: int) -> np.ndarray:
    """Return COPIES of each original, the same originals for every seed, in random order."""
    draw = np.random.default_rng(seed)
    originals = independent(0)[: ROWS // COPIES].repeat(COPIES, axis=0)
    return unit(originals + NOISE * independent(seed))[draw.permutation(ROWS)]


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.monotonic()
    work()
    return time.monotonic() - start


def show(name: str, value: str, target: str) -> None:
    """Print one line of the table."""
    print(f"| {name} | {value} | {target} |", flush=True)


def reference(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return ids [Q, K] by float64 dot products, ties by row: whole products, doubtful places summed in order."""
    ids = np.empty((len(queries), K), np.int64)
    gallery_DG = torch.from_numpy(gallery).double().T
    for start in range(0, len(queries), 250):
        block = torch.from_numpy(queries[start : start + 250]).double() @ gallery_DG
        least = block.topk(K, dim=1).values[:, -1:] - CERTAIN
        for row, scores in enumerate(block >= least):
            item = scores.nonzero()[:, 0].numpy()
            exact = (queries[start + row].astype(np.float64) * gallery[item]).sum(axis=1)
            ids[start + row] = item[np.lexsort((item, -exact))[:K]]
    return ids


def bare_product(images: torch.Tensor, texts: torch.Tensor) -> None:
    """Compute the product of the same tiles, and nothing else."""
    step = shortlist.TILE_SCORES // shortlist.TILE_TEXTS
    for rows in torch.split(images, step):
        for part in torch.split(texts, shortlist.TILE_TEXTS):
            rows @ part.T


def search_alone(folder: Path) -> None:
    """Search both directions three times, as the child of `compare`; write ids and what it took."""
    images, texts = np.load(folder / "images.npy"), np.load(folder / "texts.npy")
    redone = {"groups": 0, "over_64": 0, "exact": 0}
    spent = [seconds(lambda: search.top_k_both(images, texts, K)) for _ in range(3)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    find_shortlists, exact = search.find_shortlists, search.compute_exact

    def counted(shortlists: Iterator[shortlist.Candidates]) -> Iterator[shortlist.Candidates]:
        for part in shortlists:
            redone["groups"] += part.groups
            redone["over_64"] += int((np.unique(part.query.numpy(), return_counts=True)[1] > 64).sum())
            yield part

    def counted_exact(queries: np.ndarray, gallery: np.ndarray, query: np.ndarray, item: np.ndarray) -> np.ndarray:
        redone["exact"] += len(query)
        return exact(queries, gallery, query, item)

    with (
        patch.object(search, "find_shortlists", lambda *of, **named: map(counted, find_shortlists(*of, **named))),
        patch.object(search, "compute_exact", counted_exact),
    ):
        (by_image, _), (by_text, _) = search.top_k_both(images, texts, K)
    np.savez(folder / "ids.npz", by_image=by_image, by_text=by_text)
    (folder / "took.json").write_text(json.dumps(redone | {"seconds": spent, "peak": peak}))


def compare(folder: Path, images: np.ndarray, texts: np.ndarray, target_of_faiss: float) -> None:
    """Compare both directions at once with two faiss searches and the bare product; ids with the reference."""
    np.save(folder / "images.npy", images)
    np.save(folder / "texts.npy", texts)
    flat = []
    for queries, gallery in ((images, texts), (texts, images)):
        index = faiss.IndexFlatIP(DIMENSIONS)
        index.add(gallery)
        flat.append(seconds(lambda index=index, queries=queries: index.search(queries, K)))
        del index
    low = torch.from_numpy(images).bfloat16(), torch.from_numpy(texts).bfloat16()
    bare = statistics.median(seconds(lambda: bare_product(*low)) for _ in range(3))
    subprocess.run([sys.executable, __file__, "--search", str(folder)], check=True)
    took = json.loads((folder / "took.json").read_text())
    ours = statistics.median(took["seconds"])
    ids = np.load(folder / "ids.npz")
    same = sum(
        int((reference(queries, gallery) == ids[name]).all(axis=1).sum())
        for name, queries, gallery in (("by_image", images, texts), ("by_text", texts, images))
    )
    show("two faiss IndexFlatIP searches", f"{sum(flat):.1f} s ({flat[0]:.1f} + {flat[1]:.1f})", "")
    show("the bf16 product alone", f"{bare:.1f} s", "")
    show("`top_k_both`", f"{ours:.1f} s, {ours / sum(flat):.2f} of faiss", f"≤ {target_of_faiss}")
    show("", f"{ours / bare:.2f} times the product", "≤ 2.2" if target_of_faiss < 1 else "")
    show("peak memory", f"{took['peak']:.2f} GB", "< 1.5 GB")
    show("queries with the reference's ids", f"{same:,} of {2 * ROWS:,}", "all")
    again = took["groups"] * shortlist.GROUP / (2 * ROWS * ROWS)
    show("scores multiplied again in float32", f"{again:.2%}", "")
    show("queries with over 64 items in question", f"{took['over_64'] / (2 * ROWS):.1%}", "")
    show("float64 scores per query", f"{took['exact'] / (2 * ROWS):.1f}", "")


def bench_independent(folder: Path) -> None:
    """Compare on random directions."""
    compare(folder, independent(1), independent(2), target_of_faiss=0.5)


def bench_copies(folder: Path) -> None:
    """Compare on 80 copies of everything, on both sides, nearer to each other than low precision can tell."""
    compare(folder, near_copies(1), near_copies(2), target_of_faiss=1.0)


def per_query(queries: np.ndarray, gallery: np.ndarray, names: list[str]) -> list[list[str]]:
    """Do what cn_clip's evaluation does for each query: products in batches, a list of pairs, a sort of it all."""
    answers = []
    for query in queries:
        pairs: list[tuple[str, float]] = []
        for start in range(0, len(gallery), CN_CLIP_BATCH):
            batch = torch.from_numpy(gallery[start : start + CN_CLIP_BATCH])
            scores = torch.from_numpy(query[None]) @ batch.T
            pairs.extend(zip(names[start : start + CN_CLIP_BATCH], scores[0].tolist(), strict=True))
        answers.append([name for name, _ in sorted(pairs, key=lambda pair: pair[1], reverse=True)[:K]])
    return answers


def bench_cn_clip(folder: Path) -> None:
    """Compare on the same features; its queries are scaled to both directions. Reading its JSON is left out."""
    images, texts = independent(1), independent(2)
    names = [str(n) for n in range(ROWS)]
    answers: list[list[str]] = []
    timed = seconds(lambda: answers.extend(per_query(texts[:QUERIES_TIMED], images, names)))
    theirs = timed / QUERIES_TIMED * 2 * ROWS
    ids: list[np.ndarray] = []
    ours = seconds(lambda: ids.append(search.top_k_both(images, texts, K)[1][0]))
    same = sum(
        mine == list(map(int, other)) for mine, other in zip(ids[0][:QUERIES_TIMED].tolist(), answers, strict=True)
    )
    show("cn_clip's procedure", f"{theirs:.0f} s ({QUERIES_TIMED} queries in {timed:.1f} s)", "")
    show(
        "`top_k_both`",
        f"{ours:.1f} s, {theirs / ours:.0f} times as fast; {same} of {QUERIES_TIMED} equal",
        "≥ 100",
    )


def main() -> None:
    """Run the parts that are named, or all."""
    if sys.argv[1:2] == ["--search"]:
        return search_alone(Path(sys.argv[2]))
    parts = {name.removeprefix("bench_"): part for name, part in globals().items() if name.startswith("bench_")}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", metavar="part", help=f"one of {', '.join(parts)}; all if none is named"
    )
    names = parser.parse_args().parts
    if unknown := set(names) - set(parts):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    for name in names or parts:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](Path(folder))


if __name__ == "__main__":
    main()
