"""Every kind of broken or unusual image: what is measured of it, and that decoding agrees."""

import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import broken
from tests.support.broken import chunk, encode, landscape
from tests.support.checkout import ROOT
from tuwen.data.formats import images
from tuwen.data.formats.images import decode_image, decode_pixels
from tuwen.data.quality import image_stats

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # decode() silences them for a process, pytest for a test
MAX_PIXELS = 50_000_000
NO_IMAGE = [broken.zip_named_png, broken.postscript, broken.empty, broken.nul_bytes, broken.text]
NO_IMAGE += [broken.random_bytes, lambda: encode(landscape(), "WEBP")[:-60]]  # libwebp opens no image that is cut
# what landscape() of 64 x 48 has in every format
PLAIN: dict[str, Any] = {"width": 64, "height": 48, "pixels": 3072, "aspect": 4 / 3, "orientation": 1}
PLAIN |= {"frames": 1, "readable": True, "blank": False}
WHOLE: list[tuple[Callable[[], bytes], dict[str, Any]]] = [
    (broken.gif_named_jpg, {"format": "GIF", "mode": "P", "frames": 2}),
    (broken.gif_with_broken_second_frame, {"format": "GIF", "mode": "P", "frames": None}),
    (broken.animated_webp, {"format": "WEBP", "frames": 2}),
    (broken.animated_png, {"format": "PNG", "mode": "RGB", "frames": 2}),
    (broken.alpha_png, {"format": "PNG", "mode": "RGBA"}),
    (broken.palette_png, {"format": "PNG", "mode": "P"}),
    (broken.grey16_png, {"format": "PNG", "mode": "I;16"}),
    (broken.cmyk_jpeg, {"format": "JPEG", "mode": "CMYK"}),
    (broken.broken_exif_jpeg, {"format": "JPEG", "mode": "RGB"}),
    (broken.progressive_jpeg, {"format": "JPEG", "mode": "RGB"}),
    (broken.webp, {"format": "WEBP", "mode": "RGB"}),
    (lambda: broken.rotated_jpeg(6), {"width": 48, "height": 64, "orientation": 6}),
    (broken.one_pixel, {"width": 1, "height": 1, "pixels": 1, "aspect": 1.0, "blank": True}),
    (broken.one_pixel_high, {"width": 640, "height": 1, "pixels": 640, "aspect": 640.0}),
    (broken.blank, {"width": 320, "height": 240, "pixels": 76_800, "blank": True}),
]
PNG = encode(landscape())
PROFILE = random.Random(0).randbytes(3 << 20)
LONG = zlib.compress(bytes(5 << 20))  # a text of 5 MB in 5 kB


def slip(whole: bytes) -> bytes:
    return whole[:-1] + bytes([whole[-1] ^ 1])


# what a picture carries beside its pixels, too large for Pillow or with a slip in it
CARRIES: list[bytes] = [
    encode(landscape(), icc_profile=PROFILE),
    encode(landscape(), "JPEG", icc_profile=PROFILE),
    encode(landscape().convert("CMYK"), "JPEG", icc_profile=PROFILE),
    encode(landscape(), "WEBP", icc_profile=PROFILE),
    encode(landscape(), "TIFF", icc_profile=PROFILE),
    encode(landscape(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08" + bytes(65_000)),
    *(
        broken.with_chunks(PNG, *chunks, at_end=at_end)
        for at_end in (False, True)
        for chunks in [
            [chunk(b"zTXt", b"Comment\0\0" + LONG)],
            [chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG)],
            [chunk(b"tEXt", b"Comment\0" + bytes(10 << 20))] * 7,
            [chunk(b"iCCP", b"x\0\0junk")],
            [slip(chunk(b"tEXt", b"Comment\0x"))],
            [slip(chunk(b"caNv", bytes(16)))],
            [chunk(b"gAMA", b""), chunk(b"pHYs", b"\0")],
        ]
    ),
]


@pytest.mark.parametrize("number", range(len(CARRIES)))
def test_what_a_picture_carries_beside_its_pixels_is_no_fault_of_it(number: int) -> None:
    stats = measure(CARRIES[number])
    assert (stats.readable, stats.width, stats.height) == (True, 64, 48)
    assert decode_pixels(CARRIES[number]).shape == (48, 64, 3)
    if stats.format == "PNG":
        assert (decode_pixels(CARRIES[number]) == decode_pixels(PNG)).all()


def test_heic_is_read_by_its_extra_or_named_with_it() -> None:
    stats = measure(broken.heic())
    if "HEIF" in images.list_formats():
        assert (stats.format, stats.width, stats.readable) == ("HEIF", 64, True)
        assert decode_pixels(broken.heic()).shape == (64, 64, 3)
    else:
        assert (stats.format, stats.readable) == ("HEIC", False)
        with pytest.raises(OSError, match=r"HEIC: install the extra, .*\[heic\]"):
            decode_pixels(broken.heic())


def test_a_png_is_still_turned_by_the_exif_that_stands_in_a_text() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    turned = broken.with_chunks(PNG, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    assert measure(turned).orientation == 6
    assert decode_pixels(turned).shape == (64, 48, 3)


LOST: list[tuple[Callable[[], bytes], str]] = [
    (broken.truncated_jpeg, "JPEG"),
    (broken.closed_jpeg, "JPEG"),
    (broken.truncated_png, "PNG"),
    (broken.flipped_byte_png, "PNG"),
    (lambda: broken.bomb_header_png(64, 48), "PNG"),
    (lambda: encode(landscape(), "GIF")[:60], "GIF"),
]


def measure(encoded: bytes, max_pixels: int = MAX_PIXELS) -> image_stats.ImageStats:
    return image_stats.measure_image(encoded, max_pixels)


@pytest.mark.parametrize(("make", "expected"), WHOLE)
def test_unusual_images_are_read_and_named_for_what_they_are(make, expected: dict[str, Any]) -> None:
    stats, expected = measure(make())._asdict(), PLAIN | expected
    assert {name: stats[name] for name in expected} == expected
    assert decode_image(make()).mode == "RGB"


@pytest.mark.parametrize(("make", "kind"), LOST)
def test_images_that_lost_a_part_are_unreadable(make, kind: str) -> None:
    stats = measure(make())
    assert (stats.format, stats.readable, stats.thumbnail, stats.blank) == (kind, False, None, None)
    assert stats.measured_sha256 is not None


@pytest.mark.parametrize("make", NO_IMAGE)
def test_what_is_no_image_is_unreadable(make) -> None:
    stats = measure(make())
    assert (stats.format, stats.width, stats.readable) == (None, None, False)


@pytest.mark.parametrize(
    ("make", "kind", "sides"),
    [
        (broken.bomb_header_png, "PNG", (60_000, 60_000)),
        (broken.bomb_header_webp, "WEBP", (16_384, 16_384)),
        (broken.bomb_header_gif, "GIF", (65_535, 65_535)),
    ],
)
def test_a_bomb_is_refused_from_its_header(make, kind: str, sides: tuple[int, int]) -> None:
    # the pixels are not there: decoded, it would count as unreadable
    stats = measure(make())
    assert (stats.format, stats.width, stats.height, stats.readable) == (kind, *sides, None)
    assert stats.pixels == sides[0] * sides[1]


def test_a_gif_whose_frame_alone_is_a_bomb_is_unreadable() -> None:
    stats = measure(broken.bomb_header_gif(screen=64))
    assert (stats.format, stats.width, stats.readable) == ("GIF", 64, False)


def test_the_limit_itself_is_allowed() -> None:
    assert measure(broken.webp(), 3072).readable is True
    assert measure(broken.webp(), 3071).readable is None


def test_bombs_take_no_memory() -> None:
    code = """
import resource
from tests.support import broken
from tuwen.data.quality.image_stats import measure_image
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for make in (broken.webp, broken.palette_png, broken.zip_named_png):
    measure_image(make(), 50_000_000)
before = peak()
bombs = [broken.bomb_header_png(), broken.bomb_header_webp(), broken.bomb_header_gif(), broken.bomb_header_gif(64)]
for data in (*bombs, broken.bomb_header_png(7000, 7000)):
    measure_image(data, 50_000_000)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20, "megabytes; the last of them would fill 150 if it were allowed to"


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_copy_is_measured_alike(orientation: int) -> None:
    stored = measure(broken.rotated_jpeg(1, 323, 245))
    turned = measure(broken.rotated_jpeg(orientation, 323, 245))
    assert turned.orientation == orientation
    levels = [np.frombuffer(stats.thumbnail or b"", np.uint8).astype(int) for stats in (stored, turned)]
    assert np.abs(levels[0] - levels[1]).mean() < 2, "but for what the two shapes are squashed by"
    assert np.abs(levels[0] - levels[1]).max() < 60, "at an edge"


def test_a_jpeg_cut_anywhere_is_unreadable_with_or_without_a_new_end_mark() -> None:
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 4}):
        whole = encode(landscape(300, 200), "JPEG", **options)
        start = whole.rindex(b"\xff\xda") + 16  # in the last scan
        for end in range(start, len(whole) - 8, max(1, len(whole) // 40)):
            assert measure(whole[:end]).readable is False
            assert measure(whole[:end] + b"\xff\xd9").readable is False, (options, end)


def test_bytes_that_belong_to_nothing_are_no_fault() -> None:
    whole = encode(landscape(), "JPEG")
    for harmless in (whole + b"\0" * 100, whole + broken.zip_named_png(), whole[:-2] + b"\0\0\0" + whole[-2:]):
        assert measure(harmless).readable is True
        assert (decode_pixels(harmless) == decode_pixels(whole)).all()


MAKERS = [encode(landscape(), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")]
MAKERS += [make() for make, _ in WHOLE]


@given(st.binary(max_size=300), st.sampled_from([b"", *(whole[:24] for whole in MAKERS)]))
@settings(deadline=None, max_examples=200)
def test_no_bytes_make_measuring_raise(tail: bytes, head: bytes) -> None:
    stats = measure(head + tail, 1_000_000)
    assert stats.readable in (True, False, None)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_no_damage_makes_measuring_raise_and_what_is_readable_decodes(data: st.DataObject) -> None:
    encoded = bytearray(data.draw(st.sampled_from(MAKERS)))
    for _ in range(data.draw(st.integers(0, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(encoded[: data.draw(st.integers(len(encoded) // 2, len(encoded)))])
    stats = measure(damaged, 1_000_000)
    if stats.readable:
        assert (decode_pixels(damaged) == np.asarray(decode_image(damaged))).all()
        assert stats.thumbnail is not None
