"""Measures every picture, caption and pair into pandas columns; judges nothing (checks.py does)."""

import hashlib
import math
import struct
from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_type_hints

import simplejpeg
from PIL import Image

from tuwen.core.progress import follow
from tuwen.data.formats import shards
from tuwen.data.formats.images import open_image, put_on_white, read_orientation, turn_upright
from tuwen.data.quality.text_stats import measure_captions

if TYPE_CHECKING:  # the processes of the executor import this module and need neither
    import pandas as pd
    import pyarrow as pa

    from tuwen.data.formats.pairs import PairSet

__all__ = ["ImageStats", "measure_captions", "measure_image", "measure_images", "measure_pairs"]

PICTURES_PER_TASK = 128
KNOWN = ["image_id", "positive_id", "group", "split", "size", "sha256", "fault", "file", "row"]
REDUCED_PX = 32  # the short side that a picture keeps when it is reduced for looking at
FIRST_ON_ITS_SIDE = 5  # of the EXIF orientations
BLANK_SPAN = 8  # a picture is blank when no channel spans more levels than JPEG noise does

# libjpeg's words for it; its other warnings, such as bytes that belong to nothing, are about harmless things
LOST_DATA = ("premature end of data segment", "bad Huffman code")


class ImageStats(NamedTuple):
    """What is known of one picture; None where a fault before it hid the answer."""

    measured_sha256: str | None = None
    format: str | None = None  # by the magic bytes, never by the name
    mode: str | None = None  # Pillow's name of how pixels are stored: RGB, P, CMYK, I;16, ...
    frames: int | None = None  # of an animation; the first one is what counts
    width: int | None = None  # px, as stored (before the EXIF rotation)
    height: int | None = None
    aspect: float | None = None  # long side / short side
    orientation: int | None = None  # EXIF, 1..8
    pixels: int | None = None
    readable: bool | None = None  # decodes to the last row; None when refused for its size
    dhash: str | None = None  # 64 bits as hex: is each cell of a 9 x 8 grid brighter than its right neighbour?
    red: int | None = None  # mean colour, 0..255
    green: int | None = None
    blue: int | None = None
    blank: bool | None = None  # one colour, but for marks too small to be seen (`_reduced`)


def measure_images(data: Path, images: "pa.Table", max_pixels: int, executor: Executor) -> "pd.DataFrame":
    """The images table with the columns of `ImageStats`, in its order, whatever the number of workers.

    data: the data root. A picture of more than `max_pixels` is never decoded, one without shard is not readable.
    Raises UserError where a shard is missing or too short.
    """
    import pandas as pd
    import pyarrow as pa

    columns = (images[name].to_pylist() for name in shards.Place._fields)
    places = [None if place[0] is None else shards.Place(*place) for place in zip(*columns, strict=True)]
    tasks = [places[start : start + PICTURES_PER_TASK] for start in range(0, len(places), PICTURES_PER_TASK)]
    done = executor.map(partial(_measure_places, data.resolve(), max_pixels), tasks)
    schema = _schema()
    # tables as they come: a million pictures as Python objects would take more than a gigabyte
    parts = [_table(part, schema) for part in follow(done, "measure pictures", len(tasks))]
    measured: pd.DataFrame = pa.concat_tables([schema.empty_table(), *parts]).to_pandas()
    known: pd.DataFrame = images.select(KNOWN).to_pandas()
    return pd.concat([known, measured], axis=1)


def _schema() -> "pa.Schema":
    import pyarrow as pa

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    return pa.schema([(name, types[get_args(hint)[0]]) for name, hint in get_type_hints(ImageStats).items()])


def _table(pictures: Iterable[ImageStats], schema: "pa.Schema") -> "pa.Table":
    import pyarrow as pa

    return pa.table([list(column) for column in zip(*pictures, strict=True)], schema=schema)


def _measure_places(data: Path, max_pixels: int, places: list[shards.Place | None]) -> list[ImageStats]:
    return [
        ImageStats(readable=False)  # the source names a picture that it does not hold
        if place is None
        else measure_image(shards.read_member(data, place), max_pixels)
        for place in places
    ]


def measure_image(encoded: bytes, max_pixels: int) -> ImageStats:
    """Measure one encoded picture; nothing that its bytes hold makes this raise."""
    known = ImageStats(hashlib.sha256(encoded).hexdigest())
    try:
        picture = open_image(encoded)
        known = known._replace(format=picture.format, mode=picture.mode, **_sides(*picture.size))
        if picture.width * picture.height > max_pixels:
            return known
        small = _reduced(encoded, picture)
        turn = read_orientation(picture)
        seen = _look(small, turn)
    except Exception:  # decoders raise a dozen kinds on broken bytes; to us all mean the same
        known = known if known.format else known._replace(**_huge_gif(encoded))
        return known._replace(readable=None if (known.pixels or 0) > max_pixels else False)
    return known._replace(readable=True, frames=_frames(encoded, picture), orientation=turn, **seen)


def _huge_gif(encoded: bytes) -> dict[str, Any]:
    """What is known of a GIF whose size keeps it from being opened."""
    if not encoded.startswith(b"GIF8") or len(encoded) < 10:
        return {}
    return {"format": "GIF", **_sides(*struct.unpack_from("<HH", encoded, 6))}


def _sides(width: int, height: int) -> dict[str, Any]:
    long, short = max(width, height), min(width, height)
    return {"width": width, "height": height, "pixels": width * height, "aspect": long / max(short, 1)}


def _frames(encoded: bytes, picture: Image.Image) -> int | None:
    """How many frames there are; None where the later ones are broken."""
    if picture.format == "JPEG":
        return 1
    try:  # counting walks through the file, so it gets a reader of its own
        return int(getattr(open_image(encoded), "n_frames", 1))
    except Exception:
        return None


class _Reduced(NamedTuple):
    picture: Image.Image  # RGB, not turned yet
    sides: tuple[float, float]  # how much of it the original fills: the last row and column may be cut


def _reduced(encoded: bytes, picture: Image.Image) -> _Reduced:
    """`encoded`, whose `open_image` is `picture`, decoded whole and made 2, 4 or 8 times smaller.

    The short side keeps REDUCED_PX. A cell is the mean of its pixels, so of black marks on white those of three
    pixels and more in a cell of 8 x 8 keep a picture from being blank. A JPEG gets small while it is decoded:
    every bit of it is read, but of 64 pixels one is computed, which takes three fifths of the time.
    """
    width, height = picture.size
    factor = next(size for size in (8, 4, 2, 1) if size == 1 or min(width, height) >= size * REDUCED_PX)
    sides = width / factor, height / factor
    if picture.format == "JPEG" and picture.mode in ("RGB", "L"):
        small = _small_jpeg(encoded, *map(math.ceil, sides))
        if small is not None:
            return _Reduced(small, sides)
    drafted = picture.draft(None, (width // factor, height // factor))  # of the other JPEGs
    whole = put_on_white(picture)
    return _Reduced(whole if drafted else whole.reduce(factor), sides)


def _small_jpeg(encoded: bytes, width: int, height: int) -> Image.Image | None:
    """The JPEG in the smallest size of at least width x height; None where Pillow shall say whether it is broken.

    Raises ValueError where data were lost though the end mark stands: Pillow paints what is missing grey.
    """
    try:
        return Image.fromarray(simplejpeg.decode_jpeg(encoded, "RGB", min_height=height, min_width=width))
    except ValueError as error:
        if any(finding in str(error) for finding in LOST_DATA):
            raise
        return None


def _look(small: _Reduced, turn: int) -> dict[str, Any]:
    """The dhash, mean colour and `blank` of a picture. dhash: N. Krawetz, "Kind of Like That", 2013."""
    whole = (0.0, 0.0, *small.sides)
    shape = (9, 8) if turn < FIRST_ON_ITS_SIDE else (8, 9)
    # Hamming, because Pillow's box takes a pixel whole or not at all, by which copies of other sizes differ
    grid = turn_upright(small.picture.convert("L").resize(shape, Image.Resampling.HAMMING, whole), turn).tobytes()
    bits = "".join("1" if grid[i] > grid[i + 1] else "0" for i in range(72) if i % 9 < 8)
    red, green, blue = small.picture.resize((1, 1), Image.Resampling.BOX, whole).tobytes()
    extrema: Any = small.picture.getextrema()
    blank = max(high - low for low, high in extrema) <= BLANK_SPAN
    return {"dhash": f"{int(bits, 2):016x}", "red": red, "green": green, "blue": blue, "blank": blank}


def measure_pairs(pair_set: "PairSet") -> "pd.DataFrame":
    """The pairs table with `picture_exists` and `caption_exists`: whether the ids stand in the other tables."""
    frame: pd.DataFrame = pair_set.pairs.to_pandas()
    frame["picture_exists"] = frame["image_id"].isin(pair_set.images["image_id"].to_pylist())
    frame["caption_exists"] = frame["text_id"].isin(pair_set.texts["text_id"].to_pylist())
    return frame
