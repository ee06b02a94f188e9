"""Stored views in benchmarks/data.py: `augment` against bare loops, and two workers against one."""

import os
import shutil
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from data_made import PHOTOS, SIZE_PX, draw_photo, make_set, print_row, time_call

from tuwen.core.params import Augment, Image, load_params
from tuwen.core.presets import check_preset, compose_preset
from tuwen.data.augment.stored_views import augment
from tuwen.data.formats.images import resize_to_square

AUGMENTED_PAIRS = 6144  # twelve shards
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
