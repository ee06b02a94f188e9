"""What is asked of a GPU, in one run of less than nine minutes; each part prints as soon as it is measured.

    .venv/bin/python benchmarks/gpu.py               # all parts, in this order
    .venv/bin/python benchmarks/gpu.py step search   # some
    … --tiny                                         # at shapes of seconds, on a CPU too: shows that it works

The model is ViT-L/14 with RoBERTa-base at 224 px in bf16. A bare machine has torch, transformers, numpy, pillow
and safetensors; set PYTHONPATH to the repository there. `waiting` and the tests want more, or are left out.
To carry these to a machine without an index, with the same Python here, for `waiting` and pytest:

    .venv/bin/pip download --no-deps --only-binary=:all: -c constraints.txt -d wheels pytest iniconfig pluggy \
        packaging pygments pyarrow pandas python-dateutil six pydantic pydantic_core annotated-types \
        typing-inspection typing_extensions ruamel.yaml opencv-python-headless simplejpeg
    pip install --no-index --no-deps wheels/*.whl    # there

Some tests want hypothesis, open_clip_torch, timm and cn_clip too, as `make test` installs them.
Run it alone on the machine.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from memory import Setting, estimate_bytes, measure_tokens
from rerank import CAPTION, make_reranker
from train import measure_best
from train_contestants import (
    DEVICE,
    PAPER_PAIRS,
    Scale,
    make_batch,
    make_hugging_face_run,
    make_large_scale,
    make_own_run,
    make_tiny_scale,
)
from train_input import measure_from_shards
from train_measure import Row, measure_full_rate, wait_for_gpu

from tuwen.data.formats.text import build_vocabulary, make_tokenizer
from tuwen.model.reranker import ReRanker
from tuwen.retrieval.match_pairs import PairSides, PairTokens, score_token_pairs, write_tokens
from tuwen.retrieval.search import compute_exact, top_k_both

LIMIT_SECONDS = 480  # no part begins later
ITEMS, DIMENSIONS, K = 50_000, 768, 10
QUERIES, IMAGES, DEPTHS = 256, 512, (32, 128)
ALONE = 20  # queries that are asked one at a time


def report(name: str, measured: str, asked: str = "") -> None:
    """Print a line of the table."""
    print(f"{name:58}{measured:>24}   {asked}", flush=True)


def measure_both(scale: Scale, at_full: float) -> tuple[Row | None, Row | None]:
    """Measure our step and Hugging Face's loop, each None where its batch does not fit."""
    peer = measure_best("Hugging Face", lambda: make_hugging_face_run(scale), scale, at_full)
    return measure_best("tuwen", lambda: make_own_run(scale), scale, at_full), peer


def measure_step(scale: Scale, tiny_run: bool) -> None:
    """Measure a step at the whole batch; compare at half of it where Hugging Face's loop cannot take that."""
    at_full, size = measure_full_rate(scale, tiny_run), scale
    own, peer = measure_both(scale, at_full)
    compared, common = own, scale
    if not (own and peer):
        common = scale._replace(batch_size=scale.batch_size // 2)
        compared, peer = measure_both(common, at_full)
        own, size = (own, scale) if own else (compared, common)
    if not own:
        return report("a step", "no batch fits into this card")
    free = measure_best("not deterministic", lambda: make_own_run(size, deterministic=False), size, at_full)
    report("pairs/s", f"{own.pairs_per_second:.0f}, batch {size.batch_size}", "batch ≥ 512")
    report("MFU", f"{own.mfu:.1%}", "≥ 48 %")
    report("the paper's 4M views", f"{PAPER_PAIRS / own.pairs_per_second / 60:.0f} min", "≤ 90 min")
    if compared and peer:
        least = 1.2 if peer.mfu > 0.4 else 1.5
        times = compared.pairs_per_second / peer.pairs_per_second
        report("times Hugging Face's loop", f"{times:.2f}, batch {common.batch_size}", f"≥ {least}")
    if free:
        report("deterministic kernels cost", f"{free.pairs_per_second / own.pairs_per_second - 1:.1%}")
    return None


def measure_memory(scale: Scale, tiny_run: bool) -> None:
    """Measure the peaks of the ways that save memory, beside what benchmarks/memory.py says of them."""
    quarter = scale.batch_size // 4
    big, few = (
        scale._replace(batch_size=size, steps=1, rounds=1)
        for size in (8 * scale.batch_size, scale.batch_size // 8)
    )
    ways = {
        f"batch {few.batch_size}, checkpointing": (few, {"gradient_checkpointing": True}, "< 24 GB"),
        f"batch {big.batch_size}, GradCache in {quarter}s": (big, {"chunk": quarter}, "fits"),
        f"batch {scale.batch_size}": (scale._replace(steps=1, rounds=1), {}, ""),
    }
    tokens = measure_tokens()
    for name, (size, changes, asked) in ways.items():
        row: Row | None = measure_best(name, lambda s=size, c=changes: make_own_run(s, **c), size, 1.0)
        switches = changes.get("chunk"), True, bool(changes.get("gradient_checkpointing")), False
        modelled = estimate_bytes(Setting(size.config, size.batch_size, *switches, 1, False), tokens)
        peak = f"{row.peak_bytes / 1e9:.1f} GB" if row else "more than the card has"
        report(f"peak, {name}", peak, f"{asked}   modelled {sum(modelled.values()) / 1e9:.1f} GB")


def count_waits(scale: Scale, tiny_run: bool) -> None:
    """Count how often a step makes the host wait for the GPU; reading the loss is one."""
    size = scale._replace(batch_size=max(1, scale.batch_size // 8))
    run, batch = make_own_run(size), make_batch(size, 0)
    run(iter([batch]))
    if DEVICE != "cuda":
        return report("waits of a step", "no GPU", "1")
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(iter([batch]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = sorted({f"{Path(one.filename).name}:{one.lineno}" for one in caught})
    return report("waits of a step", str(len(caught)), f"1: reading the loss   at {', '.join(places)}")


def measure_search(scale: Scale, tiny_run: bool) -> None:
    """Time exact search in both directions; compare some rows with float64."""
    items = 500 if tiny_run else ITEMS
    draw = np.random.default_rng(0)
    images, texts = (draw.standard_normal((items, DIMENSIONS), np.float32) for _ in range(2))
    for vectors in (images, texts):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    top_k_both(images[:500], texts[:500], K)  # warm
    wait_for_gpu()
    began = time.perf_counter()
    (found, _), _ = top_k_both(images, texts, K)
    seconds = time.perf_counter() - began
    every = np.arange(items)
    right = sum(
        np.array_equal(
            np.argsort(-compute_exact(images, texts, np.full(items, row), every), kind="stable")[:K], ids
        )
        for row, ids in zip(every[:20], found, strict=False)
    )
    report(f"exact search, {items} × {items}, both directions", f"{seconds:.2f} s, {right}/20", "< 1 s, 20/20")


def time_pairs(reranker: ReRanker, tokens: PairTokens, found_QK: np.ndarray) -> float:
    """Return the seconds in which the first Q texts are judged with the images found for each, K rows."""
    texts_QK = np.broadcast_to(np.arange(len(found_QK))[:, None], found_QK.shape)
    began = time.perf_counter()
    score_token_pairs(reranker, tokens, found_QK.ravel(), texts_QK.ravel())
    return time.perf_counter() - began


def measure_rerank(scale: Scale, tiny_run: bool) -> None:
    """Time six layers of a cross encoder over tokens that are there: all queries together, and one at a time."""
    queries, images, depths = (4, 8, (2, 4)) if tiny_run else (QUERIES, IMAGES, DEPTHS)
    captions = [CAPTION.format(number) for number in range(queries)]
    vocabulary, draw, side = build_vocabulary(captions), np.random.default_rng(0), scale.config["image"]["size_px"]
    squares = draw.integers(0, 256, (images, side, side, 3), np.uint8)
    sides = PairSides(range(images), squares.__getitem__, captions)
    for shape in ("text_image", "both"):
        reranker = make_reranker(shape, scale.config | {"vocabulary": len(vocabulary)})
        with tempfile.TemporaryDirectory() as folder:
            tokens = write_tokens(reranker, make_tokenizer(vocabulary), sides, Path(folder))
            for k in depths:
                found_QK = np.stack([draw.permutation(images)[:k] for _ in range(queries)])
                time_pairs(reranker, tokens, found_QK[:16])  # warm
                together = time_pairs(reranker, tokens, found_QK)
                alone = [time_pairs(reranker, tokens, found_K[None]) for found_K in found_QK[:ALONE]]
                report(f"{shape} re-ranks, k {k}, pairs/s", f"{found_QK.size / together:.0f}")
                per_query = 1000 * together / queries, 1000 * float(np.median(alone))
                report("… ms a query, of all together and of one alone", "{:.1f}, {:.1f}".format(*per_query))


def measure_waiting(scale: Scale, tiny_run: bool) -> None:
    """Measure a step fed from stored views, and which part of its time it waits for them."""
    if missing := [name for name in ("cv2", "pyarrow", "simplejpeg") if importlib.util.find_spec(name) is None]:
        return report("data_wait_share", f"no {', '.join(missing)} here", "< 5 %")
    return measure_from_shards(scale, tiny_run)


def run_tests(scale: Scale, tiny_run: bool) -> None:
    """Run the tests that need a GPU; of a tiny run they are only collected."""
    if importlib.util.find_spec("pytest") is None:
        return report("tests for a GPU", "no pytest here", "green")
    only = ["--collect-only", "tests/unit/retrieval/test_search.py"] if tiny_run else []
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:xdist", *only]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    return report("tests for a GPU", (done.stdout.splitlines() or ["none"])[-1][:80], "green")


PARTS: dict[str, Callable[[Scale, bool], None]] = {
    "step": measure_step,
    "memory": measure_memory,
    "waits": count_waits,
    "search": measure_search,
    "rerank": measure_rerank,
    "waiting": measure_waiting,
    "tests": run_tests,
}


def main() -> None:
    """Measure the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=PARTS)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    scale = make_tiny_scale() if options.tiny else make_large_scale()
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    print(f"{name}, torch {torch.__version__}", flush=True)
    began = time.monotonic()
    for part in options.parts or PARTS:
        if time.monotonic() - began > LIMIT_SECONDS:
            report(part, "left out: no time")
            continue
        torch.manual_seed(0)
        PARTS[part](scale, options.tiny)
        print(f"-- {part}: {time.monotonic() - began:.0f} s since the start", flush=True)


if __name__ == "__main__":
    main()
