import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from tests.support.broken import encode, landscape
from tuwen.core.errors import UserError
from tuwen.core.executor import make_executor
from tuwen.data.formats import pairs
from tuwen.data.formats.images import open_image
from tuwen.data.formats.shards import ShardWriter
from tuwen.data.quality import image_stats

MAX_PIXELS = 50_000_000


def measure(encoded: bytes) -> image_stats.ImageStats:
    return image_stats.measure_image(encoded, MAX_PIXELS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_format_comes_from_the_bytes_and_the_digest_is_exact(kind: str) -> None:
    encoded = encode(landscape(), kind)
    stats = measure(encoded)
    assert (stats.format, stats.width, stats.height, stats.pixels) == (kind, 64, 48, 64 * 48)
    assert (stats.aspect, stats.orientation, stats.frames) == (64 / 48, 1, 1)
    assert stats.measured_sha256 == hashlib.sha256(encoded).hexdigest()
    assert (stats.readable, stats.blank) == (True, False)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("side", [24, 640])
def test_blank_means_one_colour_but_for_marks_too_small_to_be_seen(kind: str, side: int) -> None:
    paper = Image.new("RGB", (side, side), "beige")
    assert measure(encode(paper, kind)).blank is True
    noisy = Image.effect_noise((640, 640), 4).convert("RGB")
    assert measure(encode(noisy, "JPEG", quality=90)).blank is True, "the grain of a scanner"
    for box in ((8, 8, 10, 10), (0, 0, 1, side)):  # a dot of 2 x 2, a line at the edge
        marked = paper.copy()
        marked.paste("black", box)
        assert measure(encode(marked, kind, **({"quality": 95} if kind == "JPEG" else {}))).blank is False


def test_one_black_pixel_on_a_large_white_image_is_dust() -> None:
    paper = Image.new("RGB", (640, 640), "white")
    paper.putpixel((100, 100), (0, 0, 0))
    assert measure(encode(paper)).blank is True
    small = Image.new("RGB", (16, 16), "white")
    small.putpixel((3, 3), (0, 0, 0))
    assert measure(encode(small)).blank is False


def test_a_transparent_image_is_measured_on_white() -> None:
    stats = measure(encode(Image.new("RGBA", (32, 32), (0, 0, 0, 0))))
    assert stats.blank is True
    assert set(stats.thumbnail or b"") == {255, 128}, "white, without colour"


def make_images(data: Path, count: int) -> pa.Table:
    rows = []
    with ShardWriter(data, "raw/labelled/shards") as writer:
        for number in range(count):
            member = writer.add(f"{number}.png", encode(landscape(40 + number)))
            row = {
                "image_id": f"图{number}.png",
                "positive_id": f"图{number}.png",
                "file": "表.csv",
                "row": number,
            }
            rows.append(row | member._asdict())
    return pa.Table.from_pylist(rows, pairs.IMAGES)


def test_the_number_of_workers_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_stats, "IMAGES_PER_TASK", 4)
    images = make_images(tmp_path, 10)
    monkeypatch.setenv("TUWEN_WORKERS", "2")
    with ThreadPoolExecutor(1) as one, make_executor() as two:
        alone = image_stats.measure_images(tmp_path, images, MAX_PIXELS, one)
        together = image_stats.measure_images(tmp_path, images, MAX_PIXELS, two)
    assert alone["width"].tolist() == list(range(40, 50))
    assert alone["image_id"].tolist() == [f"图{n}.png" for n in range(10)]
    assert alone["row"].tolist() == list(range(10))
    assert alone["measured_sha256"].tolist() == alone["sha256"].tolist()
    assert alone.equals(together)


def test_a_missing_or_short_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    images = make_images(tmp_path, 3)
    shard = tmp_path / "raw/labelled/shards/000000.tar"
    shard.write_bytes(shard.read_bytes()[:600])
    with ThreadPoolExecutor(1) as one, pytest.raises(UserError, match=r"000000\.tar: ends before byte"):
        image_stats.measure_images(tmp_path, images, MAX_PIXELS, one)
    shard.unlink()
    with ThreadPoolExecutor(1) as one, pytest.raises(UserError, match=r"000000\.tar: this shard is missing"):
        image_stats.measure_images(tmp_path, images, MAX_PIXELS, one)


def test_an_image_that_the_source_lacks_is_unreadable(tmp_path: Path) -> None:
    lost = {"image_id": "丢失.png", "fault": "outside_source", "file": "表.csv", "row": 3}
    with ThreadPoolExecutor(1) as one:
        measured = image_stats.measure_images(
            tmp_path, pa.Table.from_pylist([lost], pairs.IMAGES), MAX_PIXELS, one
        )
    assert measured["readable"].tolist() == [False]
    assert measured[["image_id", "fault", "file", "row"]].iloc[0].tolist() == list(lost.values())
    assert measured[["format", "width", "thumbnail", "measured_sha256"]].isna().all(axis=None)


def test_a_set_without_images_has_all_columns(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as one:
        empty = image_stats.measure_images(tmp_path, pairs.IMAGES.empty_table(), MAX_PIXELS, one)
        some = image_stats.measure_images(tmp_path, make_images(tmp_path, 1), MAX_PIXELS, one)
    assert len(empty) == 0
    assert empty.columns.tolist() == some.columns.tolist()
    assert {"split", "fault", "mode", "frames", "aspect", "orientation"} <= set(some.columns)


@pytest.mark.parametrize(
    ("encoded", "form"),
    [
        *((encode(landscape(), kind), form) for kind, form in (("JPEG2000", "JPEG 2000"), ("PPM", "PNM"))),
        (encode(landscape().convert("1"), "PPM"), "PNM"),
        *((encode(landscape().convert(mode), "TGA"), "TGA") for mode in ("RGB", "L", "P", "RGBA")),
        *((encode(landscape(), kind), form) for kind, form in (("ICO", "ICO"), ("PCX", "PCX"), ("DDS", "DDS"))),
        (b"\xff\x4f\xff\x51\0\x2f", "JPEG 2000"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"8BPS\0\1", "PSD"),
        ('<?xml version="1.0"?>\n<!-- 图 -->\n<svg xmlns="…">'.encode(), "SVG"),
    ],
)
def test_a_form_that_is_not_read_is_named_by_its_bytes(encoded: bytes, form: str) -> None:
    stats = measure(encoded)
    assert (stats.format, stats.readable, stats.thumbnail) == (form, False, None)
    with pytest.raises(OSError, match=f"{form}: this form is not read, convert it to JPEG or PNG"):
        open_image(encoded)
