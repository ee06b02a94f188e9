"""Pictures of the index as thumbnails: made once, kept whichever model answers, named by what they show."""

import io
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

from PIL import Image

from tuwen.core.errors import UserError
from tuwen.data.formats import shards
from tuwen.data.formats.images import decode_image
from tuwen.service.messages import RequestError

SIZES_PX = (160, 320, 640)  # the long side
QUALITY = 82
KEPT_BYTES = 64 << 20


class Thumbnails:
    """The thumbnails that were asked for last, up to KEPT_BYTES; of threads that ask for one, one draws it."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes, self._turn = 0, Lock()
        self._drawing: WeakValueDictionary[tuple[str, int], Lock] = (
            WeakValueDictionary()
        )  # while somebody holds it

    def make(self, item: dict[str, Any], size_px: int) -> bytes:
        """Return an item's picture as a JPEG. Raises RequestError where it is no longer what the index saw."""
        key = (item["sha256"], size_px)
        with self._turn:
            drawing = self._drawing.setdefault(key, Lock())
        with drawing:
            if (kept := self._find(key)) is None:
                kept = _encode(read_picture(self._data, item), size_px)
                self._keep(key, kept)
        return kept

    def _find(self, key: tuple[str, int]) -> bytes | None:
        with self._turn:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
            return kept

    def _keep(self, key: tuple[str, int], made: bytes) -> None:
        with self._turn:
            self._kept[key] = made
            self._bytes += len(made)
            while self._bytes > KEPT_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])


def read_picture(data: Path, item: dict[str, Any]) -> Image.Image:
    """Return an item's picture in RGB. Raises RequestError where it is no longer what the index saw."""
    try:
        encoded = shards.read_member(data, shards.Place.of(item))
        if sha256(encoded).hexdigest() == item["sha256"]:
            return decode_image(encoded)
    except (UserError, OSError):
        pass
    raise RequestError(
        404,
        "picture_gone",
        "the picture is no longer where the index saw it; make the index anew: `dvc repro index`",
    )


def make_tag(item: dict[str, Any], size_px: int) -> str:
    """Return the ETag of an item's thumbnail."""
    return f'"{item["sha256"][:32]}-{size_px}"'


def _encode(picture: Image.Image, size_px: int) -> bytes:
    picture.thumbnail((size_px, size_px))
    with io.BytesIO() as file:
        picture.save(file, "JPEG", quality=QUALITY)
        return file.getvalue()
