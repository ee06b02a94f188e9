"""Files in benchmarks/data.py: tables that are ingested, and what DVC takes for the outs."""

import csv
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from data_made import CAPTIONS, PHOTOS, SIZE_PX, draw_photo, draw_small, make_set, print_row, time_call
from PIL import Image as Pillow

from tuwen.core.params import Image, TableSource, load_params
from tuwen.core.presets import check_preset, compose_preset
from tuwen.data.augment.stored_views import augment
from tuwen.data.formats import manifest, shards
from tuwen.data.sources.ingest import ingest

VIEWS = 400_000
TABLE_ROWS = 1_000_000
SCALED_PAIRS = 10_000


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
        lambda: subprocess.run([sys.executable, __file__, str(work)], env=os.environ | here, check=True)
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


if __name__ == "__main__":
    ingest_table(Path(sys.argv[1]))  # the child process of `bench_ingest`
