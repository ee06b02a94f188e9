"""The image processors of transformers as picture rules, and back."""

import json
from pathlib import Path
from typing import Any

from tuwen.core.compat import declare_torchvision_ops
from tuwen.core.errors import UserError
from tuwen.model.weights import hugging_face, pixel_config

RESAMPLES = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def read_processor(folder: Path) -> dict[str, Any]:
    """Return what the image processor in `folder` does, defaults of its class included.

    Raises UserError where there is none, or it prepares pictures in a way that is not known here.
    """
    declare_torchvision_ops()
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # as many as there are forms
        why = str(error).strip().replace("\n", " ")[:300]
        raise UserError(
            f"{folder}: no image processor of transformers in it: {why}; {hugging_face.REFETCH}"
        ) from None
    content: dict[str, Any] = json.loads(processor.to_json_string())
    path = folder / "preprocessor_config.json"
    pixel_config.check_pixel_steps(content, path, hugging_face.REFETCH)
    pixel_config.check_pixel_levels(
        {name: content.get(f"image_{name}") for name in ("mean", "std")}, path, hugging_face.REFETCH
    )
    if content.get("do_pad"):
        raise UserError(f"{path}: do_pad: expected false, got true; pictures are not padded here")
    return content


def make_picture_config(processor: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """Return `size_px`, `rule`, `mean` and `std` as dual_encoder.py takes them.

    vision: the library's config of it. Raises UserError where the processor's size is not the model's.
    """
    rule: dict[str, Any] = {"resample": RESAMPLES.get(int(processor["resample"]), "")}
    if not rule["resample"]:
        raise UserError(
            f"preprocessor_config.json: resample: expected one of {RESAMPLES}, got {processor['resample']}"
        )
    if "max_num_patches" in processor:
        side, patch = round(vision["num_patches"] ** 0.5), vision["patch_size"]
        size_px = side * patch
        rule |= {"fit": "patches", "patch_px": patch, "patches": processor["max_num_patches"]}
    else:
        size, crop, size_px = processor["size"], processor.get("crop_size") or {}, vision["image_size"]
        if processor.get("do_center_crop"):
            rule |= {"fit": "crop", "resize_px": size.get("shortest_edge") or size.get("height")}
            sides = {crop.get("height"), crop.get("width")}
        else:
            rule |= {"fit": "squash"}
            sides = {size.get("height"), size.get("width")}
        if sides != {size_px}:
            raise UserError(
                f"preprocessor_config.json: size, crop_size: expected squares of {size_px} px, as config.json says"
                f", got {size}, {crop}"
            )
        if rule["fit"] == "crop" and not (rule["resize_px"] and rule["resize_px"] >= size_px):
            raise UserError(
                f"preprocessor_config.json: size: expected a shortest_edge of {size_px} at least, got {size}"
            )
    levels = {name: list(processor[f"image_{name}"]) for name in ("mean", "std")}
    return {"size_px": size_px, "rule": rule, **pixel_config.make_pixel_config(levels)}


def make_processor(image: dict[str, Any]) -> dict[str, Any]:
    """Return the preprocessor_config.json of a model; image: its config, as `make_picture_config` has it."""
    processor = dict(image["processor"])
    if "rule" not in image and "max_num_patches" not in processor:  # the project's: squashed to the square
        square = {"height": image["size_px"], "width": image["size_px"]}
        processor |= {"do_center_crop": False, "size": square, "resample": 3}
    return processor
