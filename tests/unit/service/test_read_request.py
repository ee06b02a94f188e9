"""Pictures that clients send: read as the model reads them, or refused with a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.support.broken import encode, landscape
from tuwen.data.formats.picture_rule import PictureRule
from tuwen.retrieval.retriever import read_square
from tuwen.service.messages import RequestError
from tuwen.service.read_request import decode_upload, read_base64


def test_an_upload_is_seen_as_a_file_is() -> None:
    data = encode(landscape(), "PNG")
    assert np.array_equal(decode_upload(data, PictureRule(16), 10**6), read_square(("", data), PictureRule(16)))


def make_bomb(side_px: int) -> bytes:
    """A PNG whose header promises more than its bytes hold."""
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no picture that can be read"),
        ("一只橘猫".encode(), "no picture that can be read"),
        (encode(landscape(), "JPEG")[:200], "send a JPEG, PNG"),
        (make_bomb(30_000), "30000 x 30000 pixels, at most 1,000,000 are taken"),
    ],
)
def test_what_is_no_picture_or_a_bomb_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        decode_upload(data, PictureRule(16), 10**6)
    assert refused.value.status == 422


def test_a_picture_of_any_shape_is_read() -> None:
    for size in ((1, 1), (1, 400), (400, 1)):
        file = io.BytesIO()
        Image.new("RGB", size, "teal").save(file, "PNG")
        assert decode_upload(file.getvalue(), PictureRule(16), 10**6).shape == (16, 16, 3)


def test_base64_is_read_plain_and_behind_a_data_address() -> None:
    assert read_base64("5Zu+") == read_base64("data:image/png;base64,5Zu+") == "图".encode()
    with pytest.raises(RequestError, match=r"images\[3\]: not base64"):
        read_base64("图", "images[3]")
