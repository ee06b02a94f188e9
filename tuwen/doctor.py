"""Measures every picture, caption and pair into pandas columns; judges nothing (checks.py does)."""

import hashlib
import io
import re
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from tuwen import shards
from tuwen.images import decode
from tuwen.progress import follow
from tuwen.text import has_side_word, normalise

if TYPE_CHECKING:  # the processes of the executor import this module and need neither
    import pandas as pd
    import pyarrow as pa

    from tuwen.pairs import PairSet

PICTURES_PER_TASK = 128
BLANK_SPAN = 8  # a picture is blank when no channel spans more levels than JPEG noise does
CHINESE = re.compile(r"[\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
# without tab and line ends, which captions of the contest hold
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
NEWLINE = re.compile(r"[\r\n]")
INVISIBLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]")

Place = tuple[str | None, int | None, int | None]  # shard, offset, size


class Picture(NamedTuple):
    """What is known of one picture; None where a fault before it hid the answer."""

    measured_sha256: str | None = None
    format: str | None = None  # by the magic bytes, never by the name
    width: int | None = None  # px, as stored (before the EXIF rotation)
    height: int | None = None
    pixels: int | None = None
    readable: bool | None = None  # decodes to the last row; None when refused for its size
    dhash: str | None = None  # 64 bits as hex: is each cell of a 9 x 8 grid brighter than its right neighbour?
    red: int | None = None  # mean colour, 0..255
    green: int | None = None
    blue: int | None = None
    blank: bool | None = None


def measure_pictures(data: Path, images: "pa.Table", max_pixels: int, executor: Executor) -> "pd.DataFrame":
    """The images table with the columns of `Picture`, in its order, whatever the number of workers.

    data: the data root. A picture of more than `max_pixels` is never decoded. Raises UserError where a shard
    is missing or too short.
    """
    import pandas as pd

    places: list[Place] = list(
        zip(*(images[name].to_pylist() for name in ("shard", "offset", "size")), strict=True)
    )
    tasks = [places[start : start + PICTURES_PER_TASK] for start in range(0, len(places), PICTURES_PER_TASK)]
    done = executor.map(partial(_measure_places, data, max_pixels), tasks)
    measured = [picture for part in follow(done, "measure pictures", len(tasks)) for picture in part]
    columns = pd.DataFrame(measured, columns=list(Picture._fields))
    known: pd.DataFrame = images.select(["image_id", "positive_id", "group", "sha256"]).to_pandas()
    return pd.concat([known, columns], axis=1)


def _measure_places(data: Path, max_pixels: int, places: list[Place]) -> list[Picture]:
    return [
        Picture(readable=False)  # the source names a picture that it does not hold
        if shard is None or offset is None or size is None
        else measure_picture(shards.read(data, shard, offset, size), max_pixels)
        for shard, offset, size in places
    ]


def measure_picture(encoded: bytes, max_pixels: int) -> Picture:
    """Measure one encoded picture; nothing that its bytes hold makes this raise."""
    digest = hashlib.sha256(encoded).hexdigest()
    kind = width = height = None
    try:
        with _any_size(), Image.open(io.BytesIO(encoded)) as header:
            kind, (width, height) = header.format, header.size
        if width * height > max_pixels:
            return Picture(digest, kind, width, height, width * height)
        seen = _look(decode(encoded))
    except Exception:  # decoders raise a dozen kinds on broken bytes; to us all mean the same
        pixels = None if width is None or height is None else width * height
        return Picture(digest, kind, width, height, pixels, readable=False)
    return Picture(digest, kind, width, height, width * height, True, *seen)


def _look(picture: Image.Image) -> tuple[str, int, int, int, bool]:
    """(dhash, red, green, blue, blank) of an RGB picture. dhash: N. Krawetz, "Kind of Like That", 2013."""
    grid = picture.convert("L").resize((9, 8), Image.Resampling.BOX).tobytes()
    bits = "".join("1" if grid[i] > grid[i + 1] else "0" for i in range(72) if i % 9 < 8)
    red, green, blue = picture.resize((1, 1), Image.Resampling.BOX).tobytes()
    blank = bool(np.ptp(np.asarray(picture), axis=(0, 1)).max() <= BLANK_SPAN)
    return f"{int(bits, 2):016x}", red, green, blue, blank


@contextmanager
def _any_size() -> Iterator[None]:
    """Let Pillow read the header of a picture of any size: it would refuse before we know the number."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def measure_captions(texts: "pa.Table") -> "pd.DataFrame":
    """The texts table with `normalised`, `chars` (0 when nothing is visible), `chinese_share` of the visible
    characters, `control_chars`, `newline` and `side_word` (left or right).
    """
    frame: pd.DataFrame = texts.to_pandas()
    captions = [caption or "" for caption in texts["caption"].to_pylist()]
    visible = [len(INVISIBLE.sub("", caption)) for caption in captions]
    frame["normalised"] = [normalise(caption) for caption in captions]
    frame["chars"] = [len(caption.strip()) if seen else 0 for caption, seen in zip(captions, visible, strict=True)]
    chinese = [len(CHINESE.findall(caption)) for caption in captions]
    frame["chinese_share"] = [some / seen if seen else 0.0 for some, seen in zip(chinese, visible, strict=True)]
    frame["control_chars"] = [len(CONTROL.findall(caption)) for caption in captions]
    frame["newline"] = [bool(NEWLINE.search(caption)) for caption in captions]
    frame["side_word"] = [has_side_word(caption) for caption in captions]
    return frame


def measure_pairs(pair_set: "PairSet") -> "pd.DataFrame":
    """The pairs table with `picture_exists` and `caption_exists`: whether the ids stand in the other tables."""
    frame: pd.DataFrame = pair_set.pairs.to_pandas()
    frame["picture_exists"] = frame["image_id"].isin(pair_set.images["image_id"].to_pylist())
    frame["caption_exists"] = frame["text_id"].isin(pair_set.texts["text_id"].to_pylist())
    return frame
