"""Position embeddings of a published image tower for pictures of another size, each library in its own way.

All resize the grid of positions by a bicubic filter; open_clip and timm with antialiasing, transformers without,
and cn_clip with the corners on the corners. What stands before the grid, the position of [CLS], stays. Shapes: N
positions of S × S patches, W width of the tower.
"""

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from tuwen.core.errors import UserError
from tuwen.model.weights.published import START_PLACE, Published

# of our transformer, of transformers, and of open_clip and timm
POSITION_TABLES = r"image_tower\.(position_embedding|side\.vision_model\.embeddings\.position_embedding\.weight"
POSITION_TABLES += r"|(tower|side\.visual)\.(positional_embedding|trunk\.pos_embed))"
PLAIN, SMOOTH = {"align_corners": False}, {"align_corners": False, "antialias": True}
# kind of baseline.start -> how its library interpolates
WAYS = {"hugging_face": PLAIN, "transformers": PLAIN, "cn_clip": {"align_corners": True}}
WAYS |= {"open_clip": SMOOTH, "open_clip_hub": SMOOTH}


def resize_positions(published: Published, size_px: int, kind: str) -> Published:
    """Return the model for pictures of `size_px`, as the library of this `kind` of start would have it.

    Raises UserError where its patches do not fill that size, or it has no grid of positions.
    """
    config, image = published.config, published.config["image"]
    if image.get("rule", {}).get("fit") == "patches" or image.get("library", {}).get("model_type") == "siglip2":
        return published._replace(
            config=config | {"image": image | {"size_px": size_px}}
        )  # by every picture's grid
    names = [name for name in published.state if re.fullmatch(POSITION_TABLES, name)]
    if not names:
        raise UserError(f"{START_PLACE}.resize_positions: {published.path} has no grid of positions to resize")
    state = dict(published.state)
    for name in names:
        table = state[name]
        rows = table.shape[-2]
        side = math.isqrt(rows)
        patch_px = image["size_px"] // side
        if size_px % patch_px:
            raise UserError(
                f"params.yaml: image.size_px: expected a multiple of {patch_px}, the side of a patch of "
                f"baseline.start, got {size_px}"
            )
        resized = _resize_grid(table.reshape(rows, -1), rows - side**2, size_px // patch_px, WAYS[kind])
        state[name] = resized.reshape(*table.shape[:-2], *resized.shape)
    return published._replace(config=config | {"image": _resize_image(image, size_px)}, state=state)


def _resize_grid(table_NW: Tensor, before: int, side: int, way: dict[str, bool]) -> Tensor:
    old = math.isqrt(len(table_NW) - before)
    grid_SSW = table_NW[before:].reshape(old, old, -1)
    resized_1WSS = nn.functional.interpolate(grid_SSW.permute(2, 0, 1)[None], (side, side), mode="bicubic", **way)
    return torch.cat([table_NW[:before], resized_1WSS[0].flatten(1).T])


def _resize_image(image: dict[str, Any], size_px: int) -> dict[str, Any]:
    """Return the config of the image tower for pictures of `size_px`, a library's own config of it included."""
    changed, old = image | {"size_px": size_px}, image["size_px"]
    if image.get("rule", {}).get("resize_px"):
        changed["rule"] = image["rule"] | {"resize_px": round(image["rule"]["resize_px"] * size_px / old)}
    if "processor" in image:
        changed["processor"] = _scale_sizes(image["processor"], old, size_px)
    if "vision_cfg" in image:
        changed["vision_cfg"] = image["vision_cfg"] | {"image_size": size_px}
    for part in ("vision_config", "vision_cfg"):
        if part in image.get("library", {}):
            changed["library"] = image["library"] | {part: image["library"][part] | {"image_size": size_px}}
    return changed


def _scale_sizes(processor: dict[str, Any], old: int, size_px: int) -> dict[str, Any]:
    """Return an image processor of transformers with `size` and `crop_size` scaled from `old` to `size_px`."""
    scaled = {
        name: {side: round(px * size_px / old) if px else px for side, px in processor[name].items()}
        for name in ("size", "crop_size")
        if isinstance(processor.get(name), dict)
    }
    return processor | scaled
