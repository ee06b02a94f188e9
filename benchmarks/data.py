"""The data side against bare loops, in one run: ratios, seconds, memory.

    .venv/bin/python benchmarks/data.py [augment] [measure] [expectations] [status] [ingest] [scale]

Run it alone on the machine. Images are made here: 640 x 480, like photographs in size and detail (about 130 kB).
"""

import csv
import io
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg
from PIL import Image as Pillow

from tuwen.core.executor import make_executor
from tuwen.core.params import Augment, Image, Params, TableSource, load_params
from tuwen.core.presets import check_preset, compose_preset
from tuwen.data.augment.stored_views import augment
from tuwen.data.formats import manifest, pairs, shards
from tuwen.data.formats.images import resize_to_square
from tuwen.data.quality import consistency, expectations, image_stats, pair_stats, quarantine, text_stats
from tuwen.data.sources.ingest import ingest

PHOTOS = 200
AUGMENTED_PAIRS = 6144  # twelve shards
MEASURED_IMAGES = 12_000
EXAMINED_ROWS = 400_000
VIEWS = 400_000
TABLE_ROWS = 1_000_000
SCALED_PAIRS = 10_000
SIZE_PX = 224
CAPTIONS = [
    "一只猫在沙发上睡觉",
    "两个孩子在海边放风筝",
    "雨后的街道上停着一辆红色的公交车",
    "桌上放着一碗热腾腾的牛肉面",
]


def draw_photo(seed: int) -> bytes:
    """Return a JPEG of 640 x 480 with detail at every scale, as photographs have."""
    draw = np.random.default_rng(seed)
    pixels = np.zeros((480, 640, 3), np.float32)
    for side in (4, 16, 64, 256, 640):
        layer = draw.normal(size=(side * 3 // 4, side, 3)).astype(np.float32)
        pixels += cv2.resize(layer, (640, 480), interpolation=cv2.INTER_CUBIC) * 160 / side**0.33
    encoded = io.BytesIO()
    Pillow.fromarray(np.clip(pixels * 0.6 + 128, 0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=88)
    return encoded.getvalue()


def make_set(data: Path, name: str, rows: int, photos: list[bytes]) -> Path:
    """Write `data/<name>` with `rows` images and pairs over the bytes of `photos`."""
    with shards.ShardWriter(data, f"{name}/shards") as writer:
        members = [writer.add(f"{n}.jpg", encoded)._asdict() for n, encoded in enumerate(photos)]
    ids = [f"{n:07d}" for n in range(rows)]
    images = [{"image_id": f"{n}.jpg", "positive_id": n} | members[int(n) % len(members)] for n in ids]
    texts = [{"text_id": n, "caption": f"{CAPTIONS[int(n) % len(CAPTIONS)]}，第{int(n)}张"} for n in ids]
    links = [{"pair_id": n, "image_id": f"{n}.jpg", "text_id": n, "label": 1} for n in ids]
    tables = zip((images, texts, links), (pairs.IMAGES, pairs.TEXTS, pairs.PAIRS), strict=True)
    pairs.write_pair_set(data / name, pairs.PairSet(*(pa.Table.from_pylist(r, schema) for r, schema in tables)))
    manifest.write_manifest(data / name, {}, {})
    return data / name


def time_call(work: Callable[[], object]) -> float:
    """Return the wall time of one call in seconds."""
    start = time.monotonic()
    work()
    return time.monotonic() - start


def print_row(name: str, value: str, target: str) -> None:
    """Print one line of the table."""
    print(f"| {name} | {value} | {target} |", flush=True)


Shrink = Callable[[np.ndarray], np.ndarray]  # a crop -> SIZE_PX a side


def shrink_by_area(crop: np.ndarray) -> np.ndarray:
    """Resize without aliases at once."""
    return cv2.resize(crop, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)


def shrink_as_ours(crop: np.ndarray) -> np.ndarray:
    """Resize as tuwen/data/augment/views.py."""
    return shrink_by_area(cv2.resize(crop, (2 * SIZE_PX, 2 * SIZE_PX), interpolation=cv2.INTER_LINEAR))


def make_bare_views(photos: list[bytes], pairs_: int, params: Augment, shrink: Shrink, squares: int = 0) -> None:
    """Do what cannot be spared: 1 decode + 8 x (crop, resize, encode), by the fastest codec on PyPI.

    squares: how many of the views are the whole picture as a model sees it, as view 0 of `augment` is.
    """
    draw = np.random.default_rng(0)
    for n in range(pairs_):
        pixels = simplejpeg.decode_jpeg(photos[n % len(photos)], "RGB")
        for number in range(params.views):
            share = draw.uniform(*params.policy.crop_scale) ** 0.5
            height, width = int(480 * share), int(640 * share)
            top, left = draw.integers(0, 481 - height), draw.integers(0, 641 - width)
            crop = pixels[top : top + height, left : left + width]
            view = resize_to_square(pixels, SIZE_PX) if number < squares else shrink(crop)
            simplejpeg.encode_jpeg(view, quality=params.jpeg_quality, colorspace="RGB", colorsubsampling="444")


def bench_augment(work: Path) -> None:
    """Eight stored views of an image against bare loops with two kernels, and two workers against one."""
    cv2.setNumThreads(0)
    photos = [draw_photo(n) for n in range(PHOTOS)]
    params = check_preset(compose_preset("contest")).augment.model_copy(
        update={"splits": ["train"], "paraphrase": load_params().augment.paraphrase}
    )
    data = work / "data"
    make_set(data, "clean/train", AUGMENTED_PAIRS, photos)
    loops = {
        "that shrinks by area": ((shrink_by_area,), "≥ 0.8"),
        "that shrinks by our kernel": ((shrink_as_ours,), "≥ 0.75"),
        "by our kernel, view 0 as a model sees it": ((shrink_as_ours, 1), ""),
    }
    bare_seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(3):
        for name, (way, _) in loops.items():
            bare_seconds[name].append(
                time_call(partial(make_bare_views, photos, AUGMENTED_PAIRS // 6, params, *way))
            )
    times: dict[int, list[float]] = {1: [], 2: []}
    for workers in (1, 2, 2, 1):  # in turn, since 1.3 GB of views a time make the disk uneven
        os.environ["TUWEN_WORKERS"] = str(workers)
        shutil.rmtree(data / "augmented", ignore_errors=True)
        times[workers].append(
            time_call(lambda: augment(data / "clean", data / "augmented", params, Image(size_px=SIZE_PX)))
        )
    rate = {workers: AUGMENTED_PAIRS / statistics.mean(spent) for workers, spent in times.items()}
    size = statistics.mean(map(len, photos)) / 1000
    print_row("`augment`, one worker", f"{rate[1]:.0f} pairs/s ({size:.0f} kB a picture)", "")
    for name, (_, asked) in loops.items():
        bare = AUGMENTED_PAIRS // 6 / statistics.median(bare_seconds[name])
        print_row(f"beside a bare loop {name}", f"{bare:.0f} pairs/s, {rate[1] / bare:.2f} of it", asked)
    print_row("`augment`, two workers", f"{rate[2]:.0f} pairs/s, {rate[2] / rate[1]:.2f} times one", "≥ 1.8")


def decode_whole(photos: list[bytes]) -> int:
    """Decode every photo and keep nothing."""
    return sum(simplejpeg.decode_jpeg(encoded, "RGB").size > 0 for encoded in photos)


def bench_measure(work: Path) -> None:
    """Measuring and examining every image against decoding it, two processes each."""
    os.environ["TUWEN_WORKERS"] = "2"
    photos = [draw_photo(n) for n in range(PHOTOS)]
    folder = make_set(work / "data", "raw/labelled", MEASURED_IMAGES, photos)
    params = load_params()
    expectations.import_great_expectations()  # the import, which takes seconds, is no part of the rate
    parts = [photos] * (MEASURED_IMAGES // PHOTOS)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(decode_whole, [photos[:1]] * 2))
        bare = MEASURED_IMAGES / statistics.median(
            time_call(lambda: list(pool.map(decode_whole, parts))) for _ in range(3)
        )
    with make_executor() as executor:
        examine(folder, params, executor)
        ours = MEASURED_IMAGES / statistics.median(
            time_call(lambda: examine(folder, params, executor)) for _ in range(3)
        )
    print_row("full decode, two processes", f"{bare:.0f} pictures/s", "")
    print_row("measured and examined, two workers", f"{ours:.0f} pictures/s, {ours / bare:.2f} of it", "≥ 0.8")


def examine(folder: Path, params: Params, executor: Executor) -> quarantine.ExaminedSet:
    """Measure and examine one raw set."""
    return quarantine.examine_set(folder, "labelled", params.validate_, params.text, executor)


def bench_expectations(work: Path) -> None:
    """Expectations alone: over the columns of 400,000 images, captions and pairs, measured before."""
    encoded = [draw_small(n) for n in range(256)]
    folder = make_set(work / "data", "raw/labelled", EXAMINED_ROWS, encoded)
    params = load_params()
    with make_executor() as executor:
        raw, limit = pairs.read_pair_set(folder), params.validate_.max_pixels
        images = image_stats.measure_images(work / "data", raw.images, limit, executor)
        captions, links = (
            text_stats.measure_captions(raw.texts, params.text.simplify),
            pair_stats.measure_pairs(raw),
        )
        with (
            patch.object(image_stats, "measure_images", lambda *_: images),
            patch.object(text_stats, "measure_captions", lambda *_: captions),
            patch.object(pair_stats, "measure_pairs", lambda *_: links),
        ):
            expectations.import_great_expectations()  # the import, which takes seconds
            spent = time_call(
                lambda: consistency.find_inconsistencies([examine(folder, params, executor)], params.validate_)
            )
    print_row(f"expectations, {EXAMINED_ROWS:,} pictures, captions and pairs", f"{spent:.1f} s", "< 10 s")


def draw_small(shade: int) -> bytes:
    """Return a JPEG of 32 x 32."""
    encoded = io.BytesIO()
    Pillow.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3) + np.uint8(shade)).save(encoded, "JPEG")
    return encoded.getvalue()


def bench_status(work: Path) -> None:
    """`dvc status` over 400,000 small views."""
    encoded = draw_small(0)
    out = work / "data" / "augmented"
    with shards.ShardWriter(work / "data", "augmented/shards") as writer:
        for n in range(VIEWS):
            writer.add(f"{n}.jpg", encoded)
            writer.add(f"{n}.txt", CAPTIONS[n % len(CAPTIONS)].encode())
    manifest.write_manifest(out, {}, {})
    stage = "stages:\n  augment:\n    cmd: 'true'\n    outs: [data/augmented]\n"
    (work / "dvc.yaml").write_text(stage)
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["git", "init", "-q"], [*dvc, "init", "-q"], [*dvc, "commit", "-q", "-f", "augment"]):
        subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)
    spent = [
        time_call(lambda: subprocess.run([*dvc, "status"], cwd=work, check=True, stdout=subprocess.DEVNULL))
        for _ in range(5)
    ]
    files = sum(path.is_file() for path in out.rglob("*"))
    print_row(f"`dvc status`, {VIEWS:,} views in {files} files", f"{statistics.median(spent):.1f} s", "< 3 s")


def bench_ingest(work: Path) -> None:
    """A table of a million rows, in a process of its own."""
    (work / "pictures").mkdir()
    for n in range(1000):
        Pillow.fromarray(np.full((8, 8, 3), n % 256, np.uint8)).save(work / "pictures" / f"{n}.png")
    with open(work / "pairs.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "picture", "caption"])
        rows.writerows([n, f"pictures/{n % 1000}.png", f"{CAPTIONS[n % 4]}，第{n}张"] for n in range(TABLE_ROWS))
    here = {"PYTHONPATH": str(Path.cwd())}
    spent = time_call(
        lambda: subprocess.run(
            [sys.executable, __file__, "--ingest", str(work)], env=os.environ | here, check=True
        )
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print_row(f"`ingest`, a table of {TABLE_ROWS:,} rows", f"{peak:.2f} GB peak, {spent:.0f} s", "< 2 GB")


def bench_scale(work: Path) -> None:
    """The rates and sizes that docs/scale.md multiplies: photographs through `ingest`, one worker's views, DVC."""
    os.environ["TUWEN_WORKERS"] = "1"
    cv2.setNumThreads(0)
    photos = [draw_photo(n) for n in range(PHOTOS)]
    (work / "pictures").mkdir()
    for n in range(SCALED_PAIRS):
        (work / "pictures" / f"{n}.jpg").write_bytes(photos[n % len(photos)])
    with open(work / "pairs.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "picture", "caption"])
        rows.writerows([n, f"pictures/{n}.jpg", CAPTIONS[n % 4]] for n in range(SCALED_PAIRS))
    spent = time_call(lambda: ingest_table(work))
    raw = measure_size(work / "data/raw")
    print_row(f"`ingest`, {SCALED_PAIRS:,} photographs", f"{SCALED_PAIRS / spent:.0f} pairs/s", "")
    print_row("raw, beside the pictures' own bytes", f"{raw / measure_size(work / 'pictures'):.3f}", "")
    params = check_preset(compose_preset("contest")).augment.model_copy(
        update={"splits": ["train"], "paraphrase": load_params().augment.paraphrase}
    )
    make_set(work / "data", "clean/train", 512, photos)
    augment(work / "data/clean", work / "data/augmented", params, Image(size_px=SIZE_PX))
    view = measure_size(work / "data/augmented") / (512 * params.views) / 1000
    print_row(f"a stored view of {SIZE_PX} px, quality {params.jpeg_quality}", f"{view:.1f} kB", "")
    (work / "dvc.yaml").write_text("stages:\n  ingest:\n    cmd: 'true'\n    outs: [data/raw]\n")
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["git", "init", "-q"], [*dvc, "init", "-q"]):
        subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)
    commit = [*dvc, "commit", "-q", "-f", "ingest"]
    spent = time_call(lambda: subprocess.run(commit, cwd=work, check=True, stdout=subprocess.DEVNULL))
    print_row("`dvc commit` of the raw shards, hash and copy", f"{raw / spent / 1e6:.0f} MB/s", "")


def measure_size(folder: Path) -> int:
    """Return the bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def ingest_table(work: Path) -> None:
    """Ingest a table whose rows have an id each; the child process of `bench_ingest` runs this."""
    source = TableSource(
        kind="table", root=str(work), file="pairs.csv", image="picture", captions=["caption"], image_id="id"
    )
    ingest(source, work / "data" / "raw")


def main() -> None:
    """Run the parts that are named, or all."""
    if sys.argv[1:2] == ["--ingest"]:
        return ingest_table(Path(sys.argv[2]))
    parts = {name.removeprefix("bench_"): part for name, part in globals().items() if name.startswith("bench_")}
    for name in sys.argv[1:] or parts:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](Path(folder))


if __name__ == "__main__":
    main()
