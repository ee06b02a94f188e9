"""Pictures as rich as photographs, their changed copies, and the thumbnails of both."""

from functools import cache

import numpy as np
from PIL import Image, ImageOps

from tests.support.broken import encode
from tuwen.data.formats.near_images.looks import measure_look


@cache
def draw_thumbnail(seed: int, *, mirrored: bool = False, margin: float = 0.0) -> bytes:
    """Return the thumbnail of what `draw_picture` returns."""
    return measure_look(draw_picture(seed, mirrored=mirrored, margin=margin)).thumbnail


def draw_picture(seed: int, *, mirrored: bool = False, margin: float = 0.0) -> bytes:
    """Return a PNG as rich as photographs; margin: the share that is cut off each side."""
    draw, pixels = np.random.default_rng(seed), np.zeros((128, 128, 3))
    for side in (3, 6, 12):
        layer = Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8))
        pixels += np.asarray(layer.resize((128, 128), Image.Resampling.BICUBIC)) / side**0.5
    picture = Image.fromarray((pixels * 255 / pixels.max()).astype(np.uint8))
    edge = round(128 * margin)
    picture = picture.crop((edge, edge, 128 - edge, 128 - edge))
    return encode(ImageOps.mirror(picture) if mirrored else picture)
