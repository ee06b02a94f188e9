"""Thumbnails are of what the index saw, or there are none."""

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pytest
from PIL import Image

from tests.support.broken import encode, landscape
from tuwen.data.formats.shards import ShardWriter
from tuwen.service import pictures
from tuwen.service.messages import RequestError
from tuwen.service.pictures import Thumbnails, make_tag


def write(data: Path, name: str, picture: bytes) -> dict[str, object]:
    with ShardWriter(data, f"raw/{name}") as writer:
        return dict(writer.add(f"{name}.jpg", picture)._asdict())


def test_a_thumbnail_is_made_once_and_no_larger_than_asked(tmp_path: Path) -> None:
    item = write(tmp_path, "风景", encode(landscape().resize((400, 200)), "JPEG"))
    thumbnails = Thumbnails(tmp_path)
    made = thumbnails.make(item, 160)
    with Image.open(io.BytesIO(made)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (160, 80))
    (tmp_path / str(item["shard"])).unlink()
    assert thumbnails.make(item, 160) is made
    with pytest.raises(RequestError, match="no longer where the index saw it"):
        thumbnails.make(item, 320)


def test_two_that_ask_at_once_have_one_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item, both = write(tmp_path, "风景", encode(landscape(), "PNG")), Barrier(2, timeout=0.5)
    read = pictures.read_picture

    def read_slowly(data: Path, one: dict[str, object]) -> Image.Image:
        with suppress(BrokenBarrierError):  # nobody else reads it meanwhile
            both.wait()
        return read(data, one)

    monkeypatch.setattr(pictures, "read_picture", read_slowly)
    thumbnails = Thumbnails(tmp_path)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(thumbnails.make, [item, item], [160, 160])
    assert first is second
    assert both.broken
    assert not thumbnails._drawing


def test_other_bytes_in_the_same_place_are_not_shown(tmp_path: Path) -> None:
    item = write(tmp_path, "风景", encode(landscape(), "PNG"))
    path = tmp_path / str(item["shard"])
    data = bytearray(path.read_bytes())
    data[int(str(item["offset"])) + 60] ^= 1
    path.write_bytes(data)
    with pytest.raises(RequestError) as refused:
        Thumbnails(tmp_path).make(item, 160)
    assert (refused.value.status, refused.value.code) == (404, "picture_gone")


def test_only_the_newest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [write(tmp_path, str(n), encode(landscape(hills=f"hsl({60 * n}, 80%, 50%)"), "PNG")) for n in range(3)]
    thumbnails = Thumbnails(tmp_path)
    size = len(thumbnails.make(items[0], 160))
    monkeypatch.setattr(pictures, "KEPT_BYTES", int(2.5 * size))
    first = thumbnails.make(items[1], 160)
    thumbnails.make(items[2], 160)
    assert thumbnails.make(items[1], 160) is first
    assert len(thumbnails._kept) == 2


def test_the_tag_names_picture_and_size(tmp_path: Path) -> None:
    item = write(tmp_path, "风景", encode(landscape(), "PNG"))
    assert make_tag(item, 160) == f'"{str(item["sha256"])[:32]}-160"' != make_tag(item, 320)
