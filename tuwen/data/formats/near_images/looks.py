"""How an image looks, in 1.5 kB: measured while it is decoded small, compared by near_looks.py."""

import math
from typing import Any, NamedTuple

from PIL import Image

from tuwen.data.formats.images import open_image, put_on_white, read_orientation, turn_upright

REDUCED_PX = 32  # the short side that an image keeps when it is reduced to be measured
THUMB_PX = 32  # the side of the square that an image is squashed to
BLANK_SPAN = 8  # an image is blank when no channel spans more levels than JPEG noise does

# libjpeg's warnings of lost data; its other ones, such as bytes that belong to nothing, are harmless
LOST_DATA = ("premature end of data segment", "bad Huffman code")


class Look(NamedTuple):
    """How one image looks; the fields are columns of measured images."""

    blank: bool  # one colour, but for marks too small to be seen (`_reduce`)
    thumbnail: bytes  # squashed to THUMB_PX a side: brightness, then blue and red against it at every second pixel


class _Reduced(NamedTuple):
    image: Image.Image  # RGB, not turned yet
    sides: tuple[float, float]  # how much of it the original fills: the last row and column may be cut


def measure_look(encoded: bytes, image: Image.Image | None = None) -> Look:
    """Decode an image whole and small, and measure how it looks; image: its `open_image`, if it is there already.

    Raises what decoders raise on broken bytes: OSError, ValueError and others.
    """
    image = image or open_image(encoded)
    small = _reduce(encoded, image)
    return _measure(small, read_orientation(image))  # after decoding: only a JPEG has it in its header


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
        import simplejpeg
    except ImportError:  # on a bare GPU machine
        return None
    try:
        return Image.fromarray(simplejpeg.decode_jpeg(encoded, "RGB", min_height=height, min_width=width))
    except ValueError as error:
        if any(warning in str(error) for warning in LOST_DATA):
            raise
        return None


def _measure(small: _Reduced, orientation: int) -> Look:
    extrema: Any = small.image.getextrema()
    blank = max(high - low for low, high in extrema) <= BLANK_SPAN
    # bilinear, because Pillow's box takes a pixel whole or not at all, by which copies of other sizes differ
    square = small.image.resize((THUMB_PX, THUMB_PX), Image.Resampling.BILINEAR, (0.0, 0.0, *small.sides))
    bright, *colours = turn_upright(square, orientation).convert("YCbCr").split()
    return Look(blank, b"".join([bright.tobytes(), *(plane.reduce(2).tobytes() for plane in colours)]))
