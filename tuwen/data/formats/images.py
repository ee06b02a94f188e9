"""The picture rule: decode, EXIF rotation, RGB on white, aspect over 2:1 cut to 2:1, squashed to a square.

How large a picture may be is `validate.max_pixels`, which doctor.py holds against the header before a pixel is
decoded; a picture that passed it decodes everywhere. Of animated pictures the first frame counts.
"""

import functools
import io
import threading
import warnings
from typing import Any

import numpy as np
from PIL import ExifTags, Image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
# Pillow knows more, but those hold vectors, start other programs, or lie about the size of what they contain
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
MAX_GIF_PIXELS = 1 << 28  # as WebP has it
MAX_ASPECT = 2.0
# Mean and deviation of CLIP's training pictures, on a 0..255 scale (Radford et al. 2021).
MEAN = (122.7709, 116.7460, 104.0937)
STD = (68.5005, 66.6322, 70.3232)
CLIP_PIXELS = {"mean": MEAN, "std": STD}
LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601: how bright red, green and blue are
EDGE = 70  # of 255: the least difference that draws an outline
# EXIF orientation (CIPA DC-008, tag 0x0112) -> what brings the picture upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_OPENING = threading.Lock()


def open_image(data: bytes) -> Image.Image:
    """Encoded bytes -> picture that knows its format, mode and size and holds no pixels yet.

    Raises OSError where the bytes are no picture of one of FORMATS, or a GIF of more than MAX_GIF_PIXELS.
    """
    _silence_pillow()
    with _OPENING:
        # Pillow's own limit warns at one size and raises at another, when pictures are cut too; but it alone keeps
        # a GIF, whose first frame is filled with its ground when it is opened, from taking any memory it likes
        Image.MAX_IMAGE_PIXELS = MAX_GIF_PIXELS // 2 if data.startswith(b"GIF8") else None
        try:
            return Image.open(io.BytesIO(data), formats=FORMATS)
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"no picture: {error!r}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = None


@functools.cache
def _silence_pillow() -> None:
    # EXIF that is cut off, palettes that are too short: what matters of it becomes a column of the doctor
    warnings.filterwarnings("ignore", module=r"PIL\.")


def read_orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1, upright, where there is none or none that can be read.

    Only a JPEG has it in its header; any other picture must be loaded, or this decodes it.
    """
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken EXIF is common, and no fault of the pixels
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


def make_upright(picture: Image.Image) -> Image.Image:
    """What `open_image` gave -> RGB picture, rotated as its EXIF says, transparent parts on white.

    Raises OSError where the bytes end early or cannot be decoded.
    """
    return turn_upright(put_on_white(picture), read_orientation(picture))


def turn_upright(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture brought upright from an EXIF orientation, 1..8."""
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def put_on_white(picture: Image.Image) -> Image.Image:
    """What `open_image` gave -> RGB picture as stored, transparent parts on white; errors as of `make_upright`."""
    try:
        picture.load()
        if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
            picture = Image.fromarray(_eight_bits(picture))
        elif picture.has_transparency_data:
            ground = Image.new("RGBA", picture.size, "white")
            ground.alpha_composite(picture.convert("RGBA"))
            picture = ground
        return picture.convert("RGB")
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"broken {picture.format}: {error!r}") from error


def _eight_bits(picture: Image.Image) -> Pixels:
    """Grey values of more than 8 bits -> uint8 [H, W], on white.

    16 bits keep their upper 8, as Pillow does with 16-bit colours; modes I and F know no white of their own, so
    their lowest value becomes black and their highest white.
    """
    values = np.asarray(picture)
    if picture.mode.startswith("I;16"):
        transparent = picture.info.get("transparency")
        grey = (values >> 8).astype(np.uint8)
        return grey if transparent is None else np.where(values == transparent, np.uint8(255), grey)
    known = values[np.isfinite(values)].astype(np.float64)
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    scaled = (values - low) * (255 / ((high - low) or 1.0))
    return np.nan_to_num(scaled, nan=0, posinf=255, neginf=0).round().astype(np.uint8)


def decode_image(data: bytes) -> Image.Image:
    """Encoded bytes -> RGB picture, upright, transparent parts on white; of animated ones the first frame.

    Raises OSError where the bytes cannot be decoded to the last row.
    """
    return make_upright(open_image(data))


def decode_pixels(data: bytes) -> Pixels:
    """`decode_image` as uint8 [H, W, 3], not always writable; the same pixels in three quarters of the time.

    simplejpeg, where it is installed, decodes upright colour and grey JPEGs straight into the array, by the same
    library, libjpeg-turbo, with the same settings as Pillow. What it finds a fault in is left to Pillow to judge.
    """
    picture, fast = open_image(data), _simplejpeg()
    if fast and picture.format == "JPEG" and picture.mode in ("RGB", "L") and read_orientation(picture) == 1:
        try:
            pixels: Pixels = fast.decode_jpeg(data, "RGB")
        except ValueError:
            pass
        else:
            return pixels
    return np.asarray(make_upright(picture))


def decode_reduced(data: bytes, enough_px: int) -> tuple[Pixels, int]:
    """`decode_pixels` for views to train on: a JPEG may come 2, 4 or 8 times smaller, in a part of the time.

    Returns the pixels and that factor: the largest one that leaves the shorter side at least `enough_px`. Every
    pixel then stands for factor² whole ones, so a side that the factor does not divide loses its rest.
    """
    picture = open_image(data)
    factor = max(f for f in (1, 2, 4, 8) if f == 1 or min(picture.size) // f >= enough_px)
    if factor == 1 or picture.format != "JPEG":
        return decode_pixels(data), 1
    width, height = (side // factor for side in picture.size)
    if read_orientation(picture) >= 5:  # lies on its side
        width, height = height, width
    picture.draft("RGB", (picture.width // factor, picture.height // factor))
    return np.asarray(make_upright(picture))[:height, :width], factor


@functools.cache
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def resize_to_square(picture: Image.Image | Pixels, size_px: int) -> Pixels:
    """The model's view of an RGB picture: uint8 [size_px, size_px, 3], one antialiased bicubic resize."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    width, height = picture.size
    long = int(min(width, height) * MAX_ASPECT)
    if max(width, height) > long:
        left, top = max(0, (width - long) // 2), max(0, (height - long) // 2)
        picture = picture.crop((left, top, left + min(width, long), top + min(height, long)))
    return np.asarray(picture.resize((size_px, size_px), Image.Resampling.BICUBIC))


def make_pixel_tensor(pictures: list[Pixels]) -> Any:
    """uint8 squares -> float32 tensor [B, 3, S, S], normalised by MEAN and STD."""
    import torch

    # A table instead of arithmetic: the same bits in a quarter of the time. NumPy, because torch would start
    # threads of its own beside those of the training step.
    levels = np.arange(256, dtype=np.uint8)[:, None]
    normal_of = (levels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    normal = np.empty((len(pictures), 3, *pictures[0].shape[:2]), np.float32)
    for pixels, planes in zip(pictures, normal, strict=True):
        for channel, plane in enumerate(planes):
            np.take(normal_of[:, channel], pixels[..., channel], out=plane, mode="clip")  # "raise" makes a copy
    return torch.from_numpy(normal)


def make_colour_matrix(brightness: float, contrast: float, saturation: float, mean: Any) -> Any:
    """float32 [3, 4] that changes brightness, then contrast, then saturation of pixels in RGB.

    mean: of each channel of the picture, [3]. Contrast is about the mean brightness, saturation about each pixel's
    own, as torchvision's ColorJitter has them; one matrix clips once, at the end.
    """
    matrix = np.empty((3, 4), np.float32)
    matrix[:, :3] = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * LUMA)
    matrix[:, 3] = (1 - contrast) * brightness * (LUMA @ mean)  # a grey, which saturation leaves as it is
    return matrix


def draw_outlines(pixels: Pixels) -> Pixels:
    """Draw the edges of a picture over in black: an edge is where a neighbour differs by EDGE or more."""
    import cv2

    red, green, blue = cv2.split(cv2.morphologyEx(pixels, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)))
    drawn = pixels.copy()
    drawn[np.maximum(np.maximum(red, green), blue) >= EDGE] = 0
    return drawn
