"""Measures every image into pandas columns; what the columns must be stands in suites.py."""

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
from tuwen.data.formats.image_files import find_extension
from tuwen.data.formats.images import list_formats, open_image, put_on_white, read_orientation, turn_upright

if TYPE_CHECKING:  # the processes of the executor import this module and need neither
    import pandas as pd
    import pyarrow as pa

IMAGES_PER_TASK = 128
SOURCE_COLUMNS = ["image_id", "positive_id", "group", "split", "size", "sha256", "fault", "file", "row"]
REDUCED_PX = 32  # the short side that an image keeps when it is reduced to be measured
FIRST_ON_ITS_SIDE = 5  # of the EXIF orientations
BLANK_SPAN = 8  # an image is blank when no channel spans more levels than JPEG noise does

# libjpeg's warnings of lost data; its other ones, such as bytes that belong to nothing, are harmless
LOST_DATA = ("premature end of data segment", "bad Huffman code")


class ImageStats(NamedTuple):
    """What was measured of one image; None where an earlier fault kept it from being measured."""

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
    blank: bool | None = None  # one colour, but for marks too small to be seen (`_reduce`)


def measure_images(data: Path, images: "pa.Table", max_pixels: int, executor: Executor) -> "pd.DataFrame":
    """Return the images table with the columns of `ImageStats`, in its order, whatever the number of workers.

    data: the data root. An image of more than `max_pixels` is never decoded, one without shard is not readable.
    Raises UserError where a shard is missing or too short.
    """
    import pandas as pd
    import pyarrow as pa

    columns = (images[name].to_pylist() for name in shards.Place._fields)
    places = [None if place[0] is None else shards.Place(*place) for place in zip(*columns, strict=True)]
    tasks = [places[start : start + IMAGES_PER_TASK] for start in range(0, len(places), IMAGES_PER_TASK)]
    results = executor.map(partial(_measure_places, data.resolve(), max_pixels), tasks)
    schema = _make_schema()
    # tables as they come: a million images as Python objects would take more than a gigabyte
    parts = [_make_table(part, schema) for part in follow(results, "measure pictures", len(places), len)]
    measured: pd.DataFrame = pa.concat_tables([schema.empty_table(), *parts]).to_pandas()
    of_source: pd.DataFrame = images.select(SOURCE_COLUMNS).to_pandas()
    return pd.concat([of_source, measured], axis=1)


def _make_schema() -> "pa.Schema":
    import pyarrow as pa

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    return pa.schema([(name, types[get_args(hint)[0]]) for name, hint in get_type_hints(ImageStats).items()])


def _make_table(stats: Iterable[ImageStats], schema: "pa.Schema") -> "pa.Table":
    import pyarrow as pa

    return pa.table([list(column) for column in zip(*stats, strict=True)], schema=schema)


def _measure_places(data: Path, max_pixels: int, places: list[shards.Place | None]) -> list[ImageStats]:
    return [
        ImageStats(readable=False)  # the source names an image that it does not hold
        if place is None
        else measure_image(shards.read_member(data, place), max_pixels)
        for place in places
    ]


def measure_image(encoded: bytes, max_pixels: int) -> ImageStats:
    """Measure one encoded image; nothing that its bytes hold makes this raise."""
    stats = ImageStats(hashlib.sha256(encoded).hexdigest())
    try:
        image = open_image(encoded)
        stats = stats._replace(format=image.format, mode=image.mode, **_measure_sides(*image.size))
        if image.width * image.height > max_pixels:
            return stats
        small = _reduce(encoded, image)
        orientation = read_orientation(image)
        looks = _measure_looks(small, orientation)
    except Exception:  # decoders raise a dozen kinds on broken bytes; to us all mean the same
        stats = stats if stats.format else stats._replace(**_read_header(encoded))
        return stats._replace(readable=None if (stats.pixels or 0) > max_pixels else False)
    return stats._replace(readable=True, frames=_count_frames(encoded, image), orientation=orientation, **looks)


def _read_header(encoded: bytes) -> dict[str, Any]:
    """Return format and sides of a GIF whose size keeps it from being opened, HEIC without its extra; else {}."""
    if find_extension(encoded) == "heic" and "HEIF" not in list_formats():
        return {"format": "HEIC"}
    if not encoded.startswith(b"GIF8") or len(encoded) < 10:
        return {}
    return {"format": "GIF", **_measure_sides(*struct.unpack_from("<HH", encoded, 6))}


def _measure_sides(width: int, height: int) -> dict[str, Any]:
    long, short = max(width, height), min(width, height)
    return {"width": width, "height": height, "pixels": width * height, "aspect": long / max(short, 1)}


def _count_frames(encoded: bytes, image: Image.Image) -> int | None:
    """Return how many frames there are; None where the later ones are broken."""
    if image.format == "JPEG":
        return 1
    try:  # counting walks through the file, so it gets a reader of its own
        return int(getattr(open_image(encoded), "n_frames", 1))
    except Exception:
        return None


class _Reduced(NamedTuple):
    image: Image.Image  # RGB, not turned yet
    sides: tuple[float, float]  # how much of it the original fills: the last row and column may be cut


def _reduce(encoded: bytes, image: Image.Image) -> _Reduced:
    """Decode `encoded`, whose `open_image` is `image`, whole and 2, 4 or 8 times smaller.

    The short side keeps REDUCED_PX. A cell is the mean of its pixels, so of black marks on white those of three
    pixels and more in a cell of 8 x 8 keep an image from being blank. A JPEG gets small while it is decoded:
    every bit of it is read, but of 64 pixels one is computed, which takes three fifths of the time.
    """
    width, height = image.size
    factor = next(size for size in (8, 4, 2, 1) if size == 1 or min(width, height) >= size * REDUCED_PX)
    sides = width / factor, height / factor
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        small = _decode_small_jpeg(encoded, *map(math.ceil, sides))
        if small is not None:
            return _Reduced(small, sides)
    drafted = image.draft(None, (width // factor, height // factor))  # of the other JPEGs
    whole = put_on_white(image)
    return _Reduced(whole if drafted else whole.reduce(factor), sides)


def _decode_small_jpeg(encoded: bytes, width: int, height: int) -> Image.Image | None:
    """Decode the JPEG in the smallest size of at least width x height; None where Pillow must judge its bytes.

    Raises ValueError where data were lost though the end mark stands: Pillow paints what is missing grey.
    """
    try:
        return Image.fromarray(simplejpeg.decode_jpeg(encoded, "RGB", min_height=height, min_width=width))
    except ValueError as error:
        if any(warning in str(error) for warning in LOST_DATA):
            raise
        return None


def _measure_looks(small: _Reduced, orientation: int) -> dict[str, Any]:
    """Return dhash, mean colour and `blank` of an image. dhash: N. Krawetz, "Kind of Like That", 2013."""
    whole = (0.0, 0.0, *small.sides)
    shape = (9, 8) if orientation < FIRST_ON_ITS_SIDE else (8, 9)
    # Hamming, because Pillow's box takes a pixel whole or not at all, by which copies of other sizes differ
    grey = small.image.convert("L").resize(shape, Image.Resampling.HAMMING, whole)
    grid = turn_upright(grey, orientation).tobytes()
    bits = "".join("1" if grid[i] > grid[i + 1] else "0" for i in range(72) if i % 9 < 8)
    red, green, blue = small.image.resize((1, 1), Image.Resampling.BOX, whole).tobytes()
    extrema: Any = small.image.getextrema()
    blank = max(high - low for low, high in extrema) <= BLANK_SPAN
    return {"dhash": f"{int(bits, 2):016x}", "red": red, "green": green, "blue": blue, "blank": blank}
