"""Pictures are measured as they stand upright, by their headers, whichever reader can tell."""

import io
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import ExifTags, Image

from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.data.formats.shards import ShardWriter
from tuwen.service.index.picture_sizes import _read_plain_jpeg, measure_pictures

XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def encode(form: str, **options: object) -> bytes:
    with io.BytesIO() as file:
        Image.new("RGB", (40, 30), "teal").save(file, form, **options)
        return file.getvalue()


def turn(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def write_images(root: Path, *pictures: bytes) -> pa.Table:
    with ShardWriter(root, "clean/test/shards") as writer:
        members = [writer.add(f"夕阳{n}", data) for n, data in enumerate(pictures)]
    rows = [{"image_id": f"夕阳{n}", "positive_id": "0"} | one._asdict() for n, one in enumerate(members)]
    return pa.Table.from_pylist(rows, pairs.IMAGES)


def test_a_picture_is_measured_as_it_stands_upright(tmp_path: Path) -> None:
    lying = [encode("JPEG", exif=turn(6)), encode("JPEG", xmp=XMP.encode())]
    standing = [encode("JPEG"), encode("JPEG", progressive=True), encode("JPEG", exif=turn(3)), encode("PNG")]
    standing += [encode("PNG", exif=turn(6)), encode("WEBP")]  # a PNG would be decoded for its EXIF
    sizes = measure_pictures(tmp_path, write_images(tmp_path, *lying, *standing))
    assert sizes.tolist() == [[30, 40]] * len(lying) + [[40, 30]] * len(standing)
    assert [bool(_read_plain_jpeg(data)) for data in lying + standing] == [False, False, True, True, *[False] * 4]


def test_thousands_keep_their_order(tmp_path: Path) -> None:
    two = write_images(tmp_path, encode("JPEG"), encode("JPEG", exif=turn(6)))
    sizes = measure_pictures(tmp_path, two.take(pa.array([0, 0, 1] * 1000)))
    assert sizes.tolist() == [[40, 30], [40, 30], [30, 40]] * 1000


@pytest.mark.parametrize("broken", [b"\xff\xd8\xff", b"no image", encode("JPEG")[:40]])
def test_what_is_no_image_is_named(tmp_path: Path, broken: bytes) -> None:
    images = write_images(tmp_path, encode("JPEG"), broken)
    with pytest.raises(UserError, match="picture 夕阳1 cannot be opened"):
        measure_pictures(tmp_path, images)


def test_a_shard_that_is_missing_or_cut_is_named(tmp_path: Path) -> None:
    images = write_images(tmp_path, encode("JPEG"), encode("JPEG"))
    path = tmp_path / images["shard"][1].as_py()
    with path.open("r+b") as file:
        file.truncate(images["offset"][1].as_py() + 5)
    with pytest.raises(UserError, match=r"000000\.tar: ends before byte"):
        measure_pictures(tmp_path, images)
    path.unlink()
    with pytest.raises(UserError, match=r"000000\.tar: this shard is missing"):
        measure_pictures(tmp_path, images)
