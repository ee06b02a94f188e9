"""Measures every image into pandas columns; what the columns must be stands in suites.py."""

import hashlib
import struct
from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_type_hints

from PIL import Image

from tuwen.core.progress import follow
from tuwen.data.formats import shards
from tuwen.data.formats.image_files import find_extension
from tuwen.data.formats.images import list_formats, open_image, read_orientation
from tuwen.data.formats.impostors import find_unread_form
from tuwen.data.formats.near_images.looks import measure_look

if TYPE_CHECKING:  # the processes of the executor import this module and need neither
    import pandas as pd
    import pyarrow as pa

IMAGES_PER_TASK = 128
SOURCE_COLUMNS = ["image_id", "positive_id", "group", "split", "size", "sha256", "fault", "file", "row"]


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
    blank: bool | None = None  # as of `looks.Look`
    thumbnail: bytes | None = None


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

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary()}
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
        look = measure_look(encoded, image)
        orientation = read_orientation(image)
    except Exception:  # decoders raise a dozen kinds on broken bytes; to us all mean the same
        stats = stats if stats.format else stats._replace(**_read_header(encoded))
        return stats._replace(readable=None if (stats.pixels or 0) > max_pixels else False)
    return stats._replace(
        readable=True, frames=_count_frames(encoded, image), orientation=orientation, **look._asdict()
    )


def _read_header(encoded: bytes) -> dict[str, Any]:
    """Return the form of what is not read, and of a GIF that is too large to be opened also its sides; else {}."""
    if find_extension(encoded) == "heic" and "HEIF" not in list_formats():
        return {"format": "HEIC"}
    if find_extension(encoded) is None and (form := find_unread_form(encoded)):
        return {"format": form}
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
