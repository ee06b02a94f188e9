"""Encoded bytes -> pixels: decode, EXIF rotation, RGB on white, aspect over 2:1 cut to 2:1, squashed to a square.

The largest size is `validate.max_pixels`; `quality/image_stats.py` compares it with the header before a pixel is
decoded, so an image that passed decodes everywhere. Of an animation the first frame counts.
"""

import functools
import io
import threading
import warnings
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from tuwen.data.formats.image_files import find_extension, remove_notes
from tuwen.data.formats.impostors import UNREAD_REMEDY, find_unread_form

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
# Pillow reads more, but those hold vectors, start other programs, or lie about the size of what they contain
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
HEIC_REMEDY = "install the extra, `pip install -c constraints.txt -e '.[heic]'`, or convert it to JPEG"
MAX_GIF_PIXELS = 1 << 28  # the limit of WebP
MAX_ASPECT = 2.0
# Mean and deviation of CLIP's training images, on a 0..255 scale (Radford et al. 2021).
MEAN = (122.7709, 116.7460, 104.0937)
STD = (68.5005, 66.6322, 70.3232)
CLIP_PIXELS = {"mean": MEAN, "std": STD}
LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601: how bright red, green and blue are
EDGE = 70  # of 255: the least difference that counts as an outline
# EXIF orientation (CIPA DC-008, tag 0x0112) -> what turns the image upright
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
    """Open encoded bytes as an image that has format, mode and size, but no pixels yet.

    Raises OSError where the bytes are no image of `list_formats`, or a GIF of more than MAX_GIF_PIXELS.
    """
    _silence_pillow()
    with _OPENING:
        # Pillow's own limit warns at one size, raises at another, and does so at cropping. But it alone keeps a
        # GIF from taking any memory: opening one fills its first frame with the background.
        Image.MAX_IMAGE_PIXELS = MAX_GIF_PIXELS // 2 if data.startswith(b"GIF8") else None
        try:
            return Image.open(io.BytesIO(remove_notes(data)), formats=list_formats())
        except UnidentifiedImageError:
            if find_extension(data) == "heic" and "HEIF" not in list_formats():
                raise OSError(f"HEIC: {HEIC_REMEDY}") from None
            if form := find_unread_form(data):
                raise OSError(f"{form}: {UNREAD_REMEDY}") from None
            raise
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"no image: {error!r}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = None


@functools.cache
def list_formats() -> tuple[str, ...]:
    """Return what is opened: FORMATS, and HEIC, which phones write, where the extra `heic` is installed."""
    try:
        import pillow_heif
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener(thumbnails=False)
    return (*FORMATS, "HEIF")


@functools.cache
def _silence_pillow() -> None:
    # EXIF that is cut off, palettes that are too short: what matters becomes a column of image_stats.py
    warnings.filterwarnings("ignore", module=r"PIL\.")


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1, upright, where there is none or it cannot be read.

    Only a JPEG has it in its header; any other image is decoded by this, unless it was loaded before.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken EXIF is common, and no fault of the pixels
        return 1
    return orientation if isinstance(orientation, int) and orientation in TURNS else 1


def make_upright(image: Image.Image) -> Image.Image:
    """Turn what `open_image` returned into an RGB image, upright as its EXIF says, transparent parts on white.

    Raises OSError where the bytes end early or cannot be decoded.
    """
    return turn_upright(put_on_white(image), read_orientation(image))


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image of this EXIF orientation, 1..8, upright."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def put_on_white(image: Image.Image) -> Image.Image:
    """Turn what `open_image` returned into RGB, transparent parts on white. Raises OSError as `make_upright`."""
    try:
        image.load()
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            image = Image.fromarray(_eight_bits(image))
        elif image.has_transparency_data:
            ground = Image.new("RGBA", image.size, "white")
            ground.alpha_composite(image.convert("RGBA"))
            image = ground
        return image.convert("RGB")
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"broken {image.format}: {error!r}") from error


def _eight_bits(image: Image.Image) -> Pixels:
    """Return grey values of more than 8 bits as uint8 [H, W], on white.

    16 bits keep their upper 8, as Pillow does with 16-bit colours; modes I and F define no white, so their lowest
    value becomes black and their highest white.
    """
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        transparent = image.info.get("transparency")
        grey = (values >> 8).astype(np.uint8)
        return grey if transparent is None else np.where(values == transparent, np.uint8(255), grey)
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    scaled = (values - low) * (255 / ((high - low) or 1.0))
    return np.nan_to_num(scaled, nan=0, posinf=255, neginf=0).round().astype(np.uint8)


def decode_image(data: bytes) -> Image.Image:
    """Decode encoded bytes to an RGB image, upright, transparent parts on white; of an animation the first frame.

    Raises OSError where the bytes cannot be decoded to the last row.
    """
    return make_upright(open_image(data))


def decode_pixels(data: bytes) -> Pixels:
    """Decode to the pixels of `decode_image`, uint8 [H, W, 3], not always writable; in three quarters of the time.

    simplejpeg, where it is installed, decodes upright colour and grey JPEGs straight into the array, by the same
    library, libjpeg-turbo, with the same settings as Pillow. What it refuses is left to Pillow.
    """
    image, fast = open_image(data), _simplejpeg()
    if fast and image.format == "JPEG" and image.mode in ("RGB", "L") and read_orientation(image) == 1:
        try:
            pixels: Pixels = fast.decode_jpeg(data, "RGB")
        except ValueError:
            pass
        else:
            return pixels
    return np.asarray(make_upright(image))


def decode_reduced(data: bytes, enough_px: int) -> tuple[Pixels, int]:
    """Decode for views to train on: as `decode_pixels`, but a JPEG may come 2, 4 or 8 times smaller, and faster.

    Returns the pixels and that factor: the largest one that leaves the shorter side at least `enough_px`. Every
    pixel then stands for factor² whole ones, so a side that the factor does not divide loses its remainder.
    """
    image = open_image(data)
    factor = max(f for f in (1, 2, 4, 8) if f == 1 or min(image.size) // f >= enough_px)
    if factor == 1 or image.format != "JPEG":
        return decode_pixels(data), 1
    width, height = (side // factor for side in image.size)
    if read_orientation(image) >= 5:  # lies on its side
        width, height = height, width
    image.draft("RGB", (image.width // factor, image.height // factor))
    return np.asarray(make_upright(image))[:height, :width], factor


@functools.cache
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def resize_to_square(image: Image.Image | Pixels, size_px: int) -> Pixels:
    """Return an RGB image as the model sees it: uint8 [size_px, size_px, 3], by one antialiased bicubic resize."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if (box := find_seen_box(*image.size)) != (0, 0, *image.size):
        image = image.crop(box)
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BICUBIC))


def find_seen_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of what a model sees of an image: all of it, or the middle up to 2:1."""
    long = int(min(width, height) * MAX_ASPECT)
    left, top = max(0, (width - long) // 2), max(0, (height - long) // 2)
    return left, top, left + min(width, long), top + min(height, long)


def make_pixel_tensor(squares: list[Pixels]) -> Any:
    """Return B uint8 squares [S, S, 3] as a float32 tensor [B, 3, S, S], normalised by MEAN and STD."""
    import torch

    # A table instead of arithmetic: the same bits in a quarter of the time. NumPy, because torch would start
    # threads of its own beside those of the training step.
    levels = np.arange(256, dtype=np.uint8)[:, None]
    normal_of = (levels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    normal = np.empty((len(squares), 3, *squares[0].shape[:2]), np.float32)
    for pixels, planes in zip(squares, normal, strict=True):
        for channel, plane in enumerate(planes):
            np.take(normal_of[:, channel], pixels[..., channel], out=plane, mode="clip")  # "raise" makes a copy
    return torch.from_numpy(normal)


def make_colour_matrix(brightness: float, contrast: float, saturation: float, mean: Any) -> Any:
    """Return float32 [3, 4] that changes brightness, then contrast, then saturation of pixels in RGB.

    mean: of each channel of the image, [3]. Contrast is about the mean brightness, saturation about each pixel's
    own, as torchvision's ColorJitter has them; one matrix clips once, at the end.
    """
    matrix = np.empty((3, 4), np.float32)
    matrix[:, :3] = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * LUMA)
    matrix[:, 3] = (1 - contrast) * brightness * (LUMA @ mean)  # grey, which saturation leaves as it is
    return matrix


def draw_outlines(pixels: Pixels) -> Pixels:
    """Draw the edges of an image in black: an edge is where a neighbour differs by EDGE or more."""
    import cv2

    red, green, blue = cv2.split(cv2.morphologyEx(pixels, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)))
    drawn = pixels.copy()
    drawn[np.maximum(np.maximum(red, green), blue) >= EDGE] = 0
    return drawn
