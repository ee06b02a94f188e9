"""The two halves of a whole dual encoder of transformers as an image tower and a text tower.

Each is the library's own model without the parts of the other side, so what it computes is the library's own,
pooling and projection included, and its tensors have the library's names. Shapes: B items, S pixels a side, P
patches of p pixels a side, L tokens, D dimensions of the common space.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tuwen.core.compat import declare_torchvision_ops
from tuwen.data.formats import images
from tuwen.data.formats.picture_rule import read_grid

IMAGE_LAYERS = ("vision_model", "visual_projection")
TEXT_LAYERS = ("text_model", "text_projection")
COMMON_LAYERS = ("logit_scale", "logit_bias")
# in place of the half that is not built
SMALL_CONFIGS = {
    "vision_config": {"num_hidden_layers": 1, "image_size": 32, "patch_size": 16},
    "text_config": {"num_hidden_layers": 1, "vocab_size": 64},
}


def build_library_model(library: dict[str, Any]) -> nn.Module:
    """Return the model of transformers that its config as a dict describes; its weights are not drawn."""
    declare_torchvision_ops()  # transformers imports torchvision where it finds it
    from transformers import AutoConfig, AutoModel
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model: nn.Module = AutoModel.from_config(AutoConfig.for_model(**library))
    return model


def _build_half(library: dict[str, Any], others: tuple[str, ...]) -> Any:
    model = build_library_model(SMALL_CONFIGS | library)
    for name in (*others, *COMMON_LAYERS):
        if hasattr(model, name):
            delattr(model, name)
    return model


class LibraryImageTower(nn.Module):
    """The image side of a dual encoder of transformers, its projection included.

    config: `library` (the model's config without `text_config`), `size_px`, `mean` and `std` where they are not
    CLIP's, and of a model that takes patches `patch_px`.
    """

    def __init__(self, config: dict[str, Any], dim: int) -> None:
        super().__init__()
        self.side = _build_half(config["library"], TEXT_LAYERS)
        self._patch_px: int | None = config["patch_px"] if config["library"]["model_type"] == "siglip2" else None
        self._levels = {
            name: [255 * value for value in config[name]] if name in config else list(clip)
            for name, clip in images.CLIP_PIXELS.items()
        }

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """Map pixels [B, 3, S, S], or strips of `picture_rule.make_strip`, to [B, D]."""
        if self._patch_px is None:
            inputs = {"pixel_values": pixels_B3SS}
        else:
            inputs = split_patches(pixels_B3SS, self._patch_px, self._levels)
        out: Tensor = self.side.get_image_features(**inputs).pooler_output
        return out

    def set_checkpointing(self, enabled: bool) -> None:
        """Turn activation checkpointing on or off."""
        set_library_checkpointing(self.side.vision_model, enabled)


class LibraryTextTower(nn.Module):
    """The text side of a dual encoder of transformers; config: `library` (the model's without `vision_config`)."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.side = _build_half(config["library"], IMAGE_LAYERS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map token ids and mask [B, L] to [B, D]."""
        out: Tensor = self.side.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return out

    def set_checkpointing(self, enabled: bool) -> None:
        """Turn activation checkpointing on or off."""
        set_library_checkpointing(self.side.text_model, enabled)


def set_library_checkpointing(model: Any, enabled: bool) -> None:
    """Turn activation checkpointing of a model of transformers on or off."""
    if enabled:
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.activation_checkpointing_disable()


def split_patches(pixels_B3SS: Tensor, patch_px: int, levels: dict[str, list[float]]) -> dict[str, Tensor]:
    """Return what SigLIP 2's NaFlex takes: patches [B, P, p × p × 3], which are of the picture, and their grid.

    pixels_B3SS: squares of which every patch counts, or strips. levels: mean and deviation of the pixels, in
    0..255.
    """
    batch, _, height, width = pixels_B3SS.shape
    if height == width:
        side = height // patch_px
        tiles_B3RpCp = pixels_B3SS.reshape(batch, 3, side, patch_px, side, patch_px)
        patches_BPF = tiles_B3RpCp.permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2)
        grids_B2 = torch.full((batch, 2), side, dtype=torch.long, device=pixels_B3SS.device)
    else:
        tiles_B3Ppp = pixels_B3SS.reshape(batch, 3, -1, patch_px, patch_px)
        mean_3, std_3 = (tiles_B3Ppp.new_tensor(levels[name])[:, None] for name in ("mean", "std"))
        corners_B32 = (tiles_B3Ppp[:, :, -1, 0, :2].float() * std_3 + mean_3).round()
        grids = [read_grid(corner_32.T.tolist()) for corner_32 in corners_B32]
        grids_B2 = torch.tensor(grids, device=pixels_B3SS.device)
        patches_BPF = tiles_B3Ppp[:, :, :-1].permute(0, 2, 3, 4, 1).flatten(2)
    number_P = torch.arange(patches_BPF.shape[1], device=pixels_B3SS.device)
    mask_BP = (number_P < grids_B2.prod(1, keepdim=True)).long()
    return {"pixel_values": patches_BPF, "pixel_attention_mask": mask_BP, "spatial_shapes": grids_B2}
