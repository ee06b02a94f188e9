"""How a picture becomes what a model sees: the project's rule, and those that published weights were trained by.

The project squashes what is at most 2:1 to a square (images.py). A published model may crop, squash all of it,
or cut it into patches at about its own aspect.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tuwen.core.compat import declare_torchvision_ops
from tuwen.data.formats.images import Pixels, resize_to_square

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
LONGEST = 16  # longer than this many times its width, a picture is cut before it is resized, for the memory's sake


class PictureRule(NamedTuple):
    """What is done with an upright RGB picture.

    size_px: side of the square. fit: `project`; `squash` to the square; `crop`: the shorter side to `resize_px`,
    then the middle; `patches`: as `make_strip` says. resample: a name in RESAMPLING. rounds: the middle is
    rounded to the nearest pixel, as torchvision does, and not down, as transformers does. patch_px, patches:
    side and largest number of the patches. steps: smaller numbers that are enough for pictures of fewer patches,
    in ascending order.
    """

    size_px: int
    fit: str = "project"
    resample: str = "bicubic"
    resize_px: int | None = None
    rounds: bool = False
    patch_px: int | None = None
    patches: int | None = None
    steps: Sequence[int] = ()


def resize_by_rule(image: Image.Image | Pixels, rule: PictureRule) -> Pixels:
    """Return an upright RGB image as the model sees it: uint8 [S, S, 3], or a strip [S', P, 3] for `patches`."""
    if rule.fit == "project":
        return resize_to_square(image, rule.size_px)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    resample = RESAMPLING[rule.resample]
    if rule.fit == "squash":
        return np.asarray(image.resize((rule.size_px, rule.size_px), resample))
    if rule.fit == "crop":
        return np.asarray(_crop_middle(image, rule, resample))
    assert rule.patch_px, rule
    assert rule.patches, rule
    own = (image.width // rule.patch_px) * (image.height // rule.patch_px)
    most = next((step for step in rule.steps if own <= step), rule.patches)
    rows, columns = count_patches(image.size, rule.patch_px, most)
    resized = image.resize((columns * rule.patch_px, rows * rule.patch_px), resample)
    return make_strip(np.asarray(resized), rule.patch_px, rule.patches)


def _crop_middle(image: Image.Image, rule: PictureRule, resample: Image.Resampling) -> Image.Image:
    width, height = image.size
    if max(width, height) > LONGEST * min(width, height):
        long = LONGEST * min(width, height)
        left, top = max(0, (width - long) // 2), max(0, (height - long) // 2)
        image = image.crop((left, top, left + min(width, long), top + min(height, long)))
        width, height = image.size
    side, short = rule.resize_px or rule.size_px, min(width, height)
    image = image.resize((int(side * width / short), int(side * height / short)), resample)
    whole = round if rule.rounds else int
    left, top = (whole((length - rule.size_px) / 2) for length in image.size)
    return image.crop((left, top, left + rule.size_px, top + rule.size_px))


def count_patches(size: tuple[int, int], patch_px: int, most: int) -> tuple[int, int]:
    """Return rows and columns of the patches of a picture of this width and height: SigLIP 2's NaFlex.

    Tschannen et al. 2025, section 2.4.2: about the picture's aspect, at most `most` patches.
    """
    declare_torchvision_ops()
    from transformers.models.siglip2 import image_processing_pil_siglip2 as naflex

    height, width = naflex.get_image_size_for_max_num_patches(size[1], size[0], patch_px, most)
    return height // patch_px, width // patch_px


def make_strip(image: Pixels, patch_px: int, most: int) -> Pixels:
    """Return the patches of uint8 [R × P, C × P, 3], row by row, below each other: uint8 [(most + 1) × P, P, 3].

    So pictures of any aspect have one shape. Behind them black, and the last patch begins with R and C, each as
    one pixel of low and high byte; `read_grid` reads these.
    """
    rows, columns = image.shape[0] // patch_px, image.shape[1] // patch_px
    tiles = image.reshape(rows, patch_px, columns, patch_px, 3).swapaxes(1, 2).reshape(-1, patch_px, 3)
    strip = np.zeros(((most + 1) * patch_px, patch_px, 3), np.uint8)
    strip[: len(tiles)] = tiles
    for place, count in enumerate((rows, columns)):
        strip[-patch_px, place, :2] = count % 256, count // 256
    return strip


def read_grid(corner: Any) -> tuple[int, int]:
    """Return rows and columns from the first two pixels of a strip's last patch, [2, 3] in 0..255."""
    rows, columns = (int(low) + 256 * int(high) for low, high, _ in corner)
    return rows, columns
