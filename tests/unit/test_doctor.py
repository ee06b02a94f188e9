import hashlib
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from tuwen import doctor, pairs
from tuwen.errors import UserError
from tuwen.executor import make_executor
from tuwen.shards import ShardWriter

MAX_PIXELS = 50_000_000


def landscape(side_px: int = 64, hills: str = "darkgreen") -> Image.Image:
    picture = Image.new("RGB", (side_px, side_px * 3 // 4), "skyblue")
    pen = ImageDraw.Draw(picture)
    pen.polygon([(0, side_px * 3 // 4), (side_px // 3, side_px // 4), (side_px, side_px * 3 // 4)], fill=hills)
    pen.ellipse((side_px * 3 // 4, 2, side_px - 2, side_px // 4), fill="gold")
    return picture


def encode(picture: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, kind, **options)
    return encoded.getvalue()


def png_without_pixels(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds not one pixel of it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_format_comes_from_the_bytes_and_the_digest_is_exact(kind: str) -> None:
    encoded = encode(landscape(), kind)
    found = doctor.measure_picture(encoded, MAX_PIXELS)
    assert (found.format, found.width, found.height, found.pixels) == (kind, 64, 48, 64 * 48)
    assert found.measured_sha256 == hashlib.sha256(encoded).hexdigest()
    assert (found.readable, found.blank) == (True, False)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        "这不是一张图片".encode(),
        encode(landscape(), "JPEG")[:-300],
        encode(landscape(), "PNG")[:-80],
        encode(landscape(), "GIF")[:40],
        png_without_pixels(64, 64),
    ],
)
def test_broken_bytes_are_unreadable_and_never_raise(encoded: bytes) -> None:
    found = doctor.measure_picture(encoded, MAX_PIXELS)
    assert found.readable is False
    assert found.dhash is None


def test_a_flipped_bit_in_the_pixels_is_unreadable() -> None:
    encoded = bytearray(encode(landscape()))
    encoded[len(encoded) // 2] ^= 0xFF
    assert doctor.measure_picture(bytes(encoded), MAX_PIXELS).readable is False


def test_a_huge_picture_is_refused_from_its_header() -> None:
    # its pixels are not even there: had they been asked for, it would count as unreadable
    found = doctor.measure_picture(png_without_pixels(60_000, 40_000), MAX_PIXELS)
    assert (found.width, found.height, found.pixels, found.readable) == (60_000, 40_000, 2_400_000_000, None)
    assert Image.MAX_IMAGE_PIXELS is not None, "Pillow's own guard must stand again"


def test_a_copy_in_another_size_and_format_has_the_same_hash_and_colour() -> None:
    one = doctor.measure_picture(encode(landscape(320)), MAX_PIXELS)
    copy = doctor.measure_picture(encode(landscape(320).resize((160, 120)), "JPEG", quality=90), MAX_PIXELS)
    other = doctor.measure_picture(encode(landscape(320).rotate(90)), MAX_PIXELS)
    assert copy.dhash == one.dhash
    assert (copy.red, copy.green, copy.blue) == pytest.approx((one.red, one.green, one.blue), abs=2)
    assert other.dhash != one.dhash


@pytest.mark.parametrize(("picture", "blank"), [(Image.new("RGB", (32, 32), "beige"), True), (landscape(), False)])
def test_blank_means_one_colour_after_jpeg_too(picture: Image.Image, blank: bool) -> None:
    assert doctor.measure_picture(encode(picture, "JPEG"), MAX_PIXELS).blank is blank


def test_a_transparent_picture_is_measured_on_white() -> None:
    found = doctor.measure_picture(encode(Image.new("RGBA", (32, 32), (0, 0, 0, 0))), MAX_PIXELS)
    assert (found.red, found.green, found.blue, found.blank) == (255, 255, 255, True)


def images_table(data: Path, count: int) -> pa.Table:
    rows = []
    with ShardWriter(data, "raw/labelled/shards") as writer:
        for number in range(count):
            member = writer.add(f"{number}.png", encode(landscape(40 + number)))
            rows.append({"image_id": f"图{number}.png", "positive_id": f"图{number}.png"} | member._asdict())
    return pa.Table.from_pylist(rows, pairs.IMAGES)


def test_the_number_of_workers_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PICTURES_PER_TASK", 4)
    images = images_table(tmp_path, 10)
    monkeypatch.setenv("TUWEN_WORKERS", "2")
    with ThreadPoolExecutor(1) as one, make_executor() as two:
        alone = doctor.measure_pictures(tmp_path, images, MAX_PIXELS, one)
        together = doctor.measure_pictures(tmp_path, images, MAX_PIXELS, two)
    assert alone["width"].tolist() == list(range(40, 50))
    assert alone["image_id"].tolist() == [f"图{n}.png" for n in range(10)]
    assert alone.equals(together)


def test_a_missing_or_short_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    images = images_table(tmp_path, 3)
    shard = tmp_path / "raw/labelled/shards/000000.tar"
    shard.write_bytes(shard.read_bytes()[:600])
    with ThreadPoolExecutor(1) as one, pytest.raises(UserError, match=r"000000\.tar: ends before byte"):
        doctor.measure_pictures(tmp_path, images, MAX_PIXELS, one)
    shard.unlink()
    with ThreadPoolExecutor(1) as one, pytest.raises(UserError, match=r"000000\.tar: this shard is missing"):
        doctor.measure_pictures(tmp_path, images, MAX_PIXELS, one)


def test_a_picture_that_the_source_lacks_is_unreadable(tmp_path: Path) -> None:
    images = pa.Table.from_pylist([{"image_id": "丢失.png"}], pairs.IMAGES)
    with ThreadPoolExecutor(1) as one:
        found = doctor.measure_pictures(tmp_path, images, MAX_PIXELS, one)
    assert found["readable"].tolist() == [False]


@pytest.mark.parametrize(
    ("caption", "column", "value"),
    [
        (" 一只白猫趴在窗台上晒太阳。 ", "chars", 13),
        ("一只白猫趴在窗台上晒太阳。", "chinese_share", 12 / 13),
        ("NBA全明星", "chinese_share", 0.5),
        ("good morning", "chinese_share", 0.0),
        (" \u3000\n", "chars", 0),
        ("\u200b\ufeff", "chars", 0),
        (None, "chars", 0),
        ("雨后的\x07彩虹\x00", "control_chars", 2),
        ("第一行\n第二行\t完", "control_chars", 0),
        ("第一行\n第二行", "newline", True),
        ("只有一行", "newline", False),
        ("男孩右手拿着风筝", "side_word", True),
        ("男孩手里拿着风筝", "side_word", False),
        ("ＡＢＣ 猫", "normalised", "abc 猫"),
    ],
)
def test_captions_are_measured(caption: str | None, column: str, value: object) -> None:
    texts = pa.Table.from_pylist([{"text_id": "句-1", "caption": caption}], pairs.TEXTS)
    assert doctor.measure_captions(texts)[column].tolist() == [value]


def test_pairs_know_whether_their_ends_exist() -> None:
    images = pa.Table.from_pylist([{"image_id": "猫.png"}], pairs.IMAGES)
    texts = pa.Table.from_pylist([{"text_id": "句-1", "caption": "窗台上的猫"}], pairs.TEXTS)
    ends = [("猫.png", "句-1"), ("狗.png", "句-1"), ("猫.png", "句-2"), (None, "句-1")]
    rows = [{"pair_id": str(n), "image_id": i, "text_id": t} for n, (i, t) in enumerate(ends)]
    found = doctor.measure_pairs(pairs.PairSet(images, texts, pa.Table.from_pylist(rows, pairs.PAIRS)))
    assert found["picture_exists"].tolist() == [True, False, True, False]
    assert found["caption_exists"].tolist() == [True, True, False, True]
