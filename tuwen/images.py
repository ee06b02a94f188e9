"""The picture rule: decode, EXIF rotation, RGB on white, aspect over 2:1 cut to 2:1, squashed to a square."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
MAX_ASPECT = 2.0
# Mean and deviation of CLIP's training pictures, on a 0..255 scale (Radford et al. 2021).
MEAN = (122.7709, 116.7460, 104.0937)
STD = (68.5005, 66.6322, 70.3232)


def decode(data: bytes) -> Image.Image:
    """Encoded bytes -> RGB picture, upright, transparent parts on white.

    Raises OSError when the bytes cannot be decoded.
    """
    with Image.open(io.BytesIO(data)) as opened:
        picture = ImageOps.exif_transpose(opened)
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            ground = Image.new("RGBA", picture.size, "white")
            ground.alpha_composite(picture)
            picture = ground
        return picture.convert("RGB")


def square(picture: Image.Image, size_px: int) -> Pixels:
    """The model's view of a picture: uint8 [size_px, size_px, 3], one antialiased bicubic resize."""
    width, height = picture.size
    long = int(min(width, height) * MAX_ASPECT)
    if max(width, height) > long:
        left, top = max(0, (width - long) // 2), max(0, (height - long) // 2)
        picture = picture.crop((left, top, left + min(width, long), top + min(height, long)))
    return np.asarray(picture.resize((size_px, size_px), Image.Resampling.BICUBIC))


def to_pixels(pictures: list[Pixels]) -> Any:
    """uint8 squares -> float32 tensor [B, 3, S, S], normalised by MEAN and STD."""
    import torch

    # NumPy, because torch would start threads of its own beside those of the training step
    normal = (np.stack(pictures) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(normal.transpose(0, 3, 1, 2)))
