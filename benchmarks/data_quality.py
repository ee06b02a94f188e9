"""Data quality in benchmarks/data.py: images measured and examined, and expectations alone."""

import os
import statistics
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import simplejpeg
from data_made import PHOTOS, draw_photo, draw_small, make_set, print_row, time_call

from tuwen.core.executor import make_executor
from tuwen.core.params import Params, load_params
from tuwen.data.formats import pairs
from tuwen.data.quality import consistency, expectations, image_stats, pair_stats, quarantine, text_stats

MEASURED_IMAGES = 12_000
EXAMINED_ROWS = 400_000


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
