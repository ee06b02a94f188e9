"""The input in benchmarks/train.py: stored views written here, batches of them, and steps on those."""

import os
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_contestants import DEVICE, PADDED_TOKENS, PAPER_PAIRS, Scale, make_batch, make_large_scale, make_own_run
from train_measure import Row, measure_full_rate, print_rows, read_peak_bytes, time_run, wait_for_gpu

from tuwen.core.progress import Pace


def write_stored_views(data: Path, count: int, size_px: int) -> Any:
    """Write `count` views of drawn images as `augment` stores them, 4:4:4 JPEGs of quality 95, and return them."""
    import cv2
    import pyarrow as pa

    from tuwen.core.presets import check_preset, compose_preset
    from tuwen.data.augment.views import VIEWS
    from tuwen.data.formats import pairs, shards
    from tuwen.training.dataset import StoredViews

    contest = compose_preset("contest", Path(__file__).parents[1] / "presets")
    quality = check_preset(contest).augment.jpeg_quality
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR]
    draw, encoded = np.random.default_rng(0), []
    for _ in range(64):
        picture = sum(
            cv2.resize(draw.normal(size=(side, side, 3)).astype(np.float32), (size_px, size_px)) * 160 / side**0.33
            for side in (4, 16, 64, size_px)
        )
        pixels = np.clip(picture * 0.6 + 128, 0, 255).astype(np.uint8)
        encoded.append(bytes(cv2.imencode(".jpg", pixels, [*flags, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444])[1]))
    caption = "雨后的街道上停着一辆红色的公交车,旁边有人撑着伞等车"
    rows = []
    with shards.ShardWriter(data, "augmented/shards") as writer:
        for n in range(count):
            member = writer.add(f"{n}.jpg", encoded[n % 64])._asdict()
            row = {"view_id": f"{n}.0", "pair_id": str(n), "view": 0, "split": "train", "positive_id": str(n)}
            rows.append(row | {"caption": caption[: 8 + n % 18], "flipped": False, "recipe": "{}"} | member)
    pairs.write_table(data / "augmented/views.parquet", pa.Table.from_pylist(rows, VIEWS))
    print(f"{count} stored views of {size_px} px, {sum(map(len, encoded)) / 64e3:.0f} kB each")
    return StoredViews(data / "augmented", ["train"])


def write_tokenizer(data: Path) -> Any:
    """Write a vocabulary of the basic characters into the folder, and return its tokenizer."""
    from tuwen.data.formats.text import build_vocabulary, list_basic_characters, load_tokenizer

    (data / "vocab.txt").write_text(
        "\n".join(build_vocabulary([list_basic_characters()])) + "\n", encoding="utf-8"
    )
    return load_tokenizer(data / "vocab.txt")


def measure_reading(scale: Scale, tiny_run: bool) -> None:
    """Print what reading a sixteenth of the stored views in the order of an epoch fetches from the disk.

    Where a set is larger than memory, what is fetched beside a view pushes other views out. Needs a disk in the
    folder for temporary files: of a tmpfs nothing is fetched.
    """
    from tuwen.data.formats.shards import read_member

    def count_fetched() -> int:
        return int(Path("/proc/self/io").read_text().split("\nread_bytes: ")[1].split()[0])

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        views = write_stored_views(data, *((64, 16) if tiny_run else (16_384, 224)))
        places = [spec.source for spec in views.plan(0, 1)]
        for name, kept in (("nothing", 0), ("half of them", len(places) // 2)):
            for scattered in (False, True):
                forget_pages(data / "augmented/shards")
                for place in places[:kept]:
                    read_member(data, place, scattered=True)
                before, wanted = count_fetched(), places[kept : kept + len(places) // 16]
                size = sum(len(read_member(data, place, scattered=scattered)) for place in wanted)
                times = (count_fetched() - before) / size
                print(f"scattered={scattered}, {name} in memory: fetched {times:.2f} times the bytes of a view")


def forget_pages(folder: Path) -> None:
    """Take the files of a folder out of the page cache."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_shares(views: Any, tokenizer: Any, rows: int) -> None:
    """Print what a batch costs a core that decodes, and the process that trains, where a GPU normalises pixels."""
    from unittest.mock import patch

    from tuwen.training import loader

    decoder = loader._TaskDecoder(views.decoders, tokenizer, PADDED_TOKENS)
    decoding, assembling = [], []
    for epoch in range(1, 6):
        began = time.perf_counter()
        planned = list(islice(views.plan(0, epoch), rows))
        middle = time.perf_counter()
        parts = [decoder[planned[start : start + loader.TASK_ROWS]] for start in range(0, rows, loader.TASK_ROWS)]
        decoded = time.perf_counter()
        with patch.object(loader, "make_pixel_tensor", lambda squares: torch.empty(0)):
            loader._assemble_batch(planned, 0, parts, decoder)
        assembling.append(middle - began + time.perf_counter() - decoded)
        decoding.append(decoded - middle)
    core, main = statistics.median(decoding), statistics.median(assembling)
    print(f"a core that decodes: {rows / core:.0f} pairs/s; planning and joining {rows}: {1000 * main:.1f} ms")


def measure_input(scale: Scale, tiny_run: bool) -> None:
    """Print the pairs/s of the batches alone, beside simplejpeg's decoding of the same bytes in one process."""
    import simplejpeg

    from tuwen.data.formats import shards
    from tuwen.training.loader import count_loading_workers, load_batches

    size_px, count = (16, 64) if tiny_run else (224, 8192)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        views, tokenizer = write_stored_views(data, count, size_px), write_tokenizer(data)
        encoded = [shards.read_member(data, spec.source) for spec in views.plan(0, 1)]
        began = time.perf_counter()
        for one in encoded:
            simplejpeg.decode_jpeg(one, "RGB")
        bare = count / (time.perf_counter() - began)
        print(f"bare simplejpeg, one process: {bare:.0f} pictures/s")
        measure_shares(views, tokenizer, min(count, 512))
        for workers in ("1",) if tiny_run else ("1", "2", "4"):
            os.environ["TUWEN_WORKERS"] = workers
            batches = load_batches(
                views, tokenizer, max_tokens=PADDED_TOKENS, batch_size=count // 8, seed=0, epoch=1
            )
            next(batches)  # workers start
            began, seen = time.perf_counter(), 0
            for batch in batches:
                seen += len(batch.pair_ids)
            rate = seen / (time.perf_counter() - began)
            line = f"batches, {count_loading_workers()} workers: {rate:.0f} pairs/s"
            print(f"{line}, {rate / bare:.2f} of the bare rate", flush=True)
        del os.environ["TUWEN_WORKERS"]


def measure_from_shards(scale: Scale, tiny_run: bool) -> None:
    """Measure our step on batches that the loader makes of stored views."""
    from tuwen.training.loader import count_loading_workers, load_batches

    at_full = measure_full_rate(scale, tiny_run)
    changes = {"compile": True, "gradient_checkpointing": True} if DEVICE == "cuda" else {}
    run = make_own_run(scale, **changes)
    time_run(run, [make_batch(scale, 0)] * 2)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        views = write_stored_views(
            data, scale.batch_size * (scale.steps * scale.rounds + 1), scale.config["image"]["size_px"]
        )
        batches = load_batches(
            views, write_tokenizer(data), max_tokens=PADDED_TOKENS, batch_size=scale.batch_size, seed=0, epoch=1
        )
        run(iter([next(batches)]))  # workers start
        pace = Pace()
        began = time.perf_counter()
        run(pace.time_batches(batches))
        wait_for_gpu()
        rate = scale.batch_size * scale.steps * scale.rounds / (time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else read_peak_bytes()
    wait = pace.compute_speeds(1)["data_wait_share"]
    print_rows([Row(f"tuwen from shards, {count_loading_workers()} workers", rate, rate / at_full, peak, wait)])
    if scale.config == make_large_scale().config:
        print(f"the paper's fine-tuning, {PAPER_PAIRS:,} pairs, input included: {PAPER_PAIRS / rate / 60:.0f} min")
