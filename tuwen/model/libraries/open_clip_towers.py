"""The two halves of a whole dual encoder of open_clip, as library_towers.py has them of transformers.

Shapes: B items, S pixels a side, L tokens, D dimensions of the common space.
"""

from typing import Any

from torch import Tensor, nn

from tuwen.core.compat import declare_torchvision_ops
from tuwen.core.errors import UserError

# in place of the half that is not built
SMALL_SHAPES = {
    "vision_cfg": {"image_size": 16, "patch_size": 16, "layers": 1, "width": 64},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1},
}
FOR_TOKENIZERS = ("hf_tokenizer_name", "tokenizer_kwargs")  # of a text_cfg: what builds no layer


def require_open_clip() -> None:
    """Raise UserError where open_clip is not installed."""
    declare_torchvision_ops()
    try:
        import open_clip  # noqa: F401
    except ImportError:
        raise UserError("these towers are built by open_clip: pip install 'tuwen[towers]'") from None


def build_open_clip_model(library: dict[str, Any]) -> nn.Module:
    """Return open_clip's model of a `model_cfg`; its weights are not drawn, and nothing is fetched."""
    require_open_clip()
    from open_clip.model import CLIP, CustomTextCLIP
    from transformers.initialization import no_init_weights

    config = {name: value for name, value in library.items() if name != "custom_text"}
    config["vision_cfg"] = dict(library["vision_cfg"])
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    config["text_cfg"] = {n: value for n, value in library["text_cfg"].items() if n not in FOR_TOKENIZERS}
    with no_init_weights():
        model: nn.Module = (CustomTextCLIP if library.get("custom_text") else CLIP)(**config)
    return model


class OpenClipImageTower(nn.Module):
    """The image side of a dual encoder of open_clip.

    config: `library` (its `model_cfg` without `text_cfg`), `size_px`.
    """

    def __init__(self, config: dict[str, Any], dim: int) -> None:
        super().__init__()
        self.side: Any = build_open_clip_model(SMALL_SHAPES | config["library"])
        _keep_parts(self.side, ("visual",))
        visual: Any = self.side.visual
        if getattr(getattr(visual, "trunk", None), "pos_embed", None) is not None:
            visual.set_input_size(config["size_px"])  # a tower of timm is built at the size in its name

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """Map pixels [B, 3, S, S] to [B, D]."""
        out: Tensor = self.side.encode_image(pixels_B3SS)
        return out

    def set_checkpointing(self, enabled: bool) -> None:
        """Turn activation checkpointing on or off."""
        self.side.visual.set_grad_checkpointing(enabled)


class OpenClipTextTower(nn.Module):
    """The text side of a dual encoder of open_clip; config: `library` (its `model_cfg` without `vision_cfg`)."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.side: Any = build_open_clip_model(SMALL_SHAPES | config["library"])
        own = (name for name, _ in (*self.side.named_children(), *self.side.named_parameters(recurse=False)))
        _keep_parts(self.side, [name for name in own if name not in ("visual", "logit_scale", "logit_bias")])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map token ids [B, L], L the model's whole length, to [B, D]; there is no mask in these models."""
        out: Tensor = self.side.encode_text(input_ids)
        return out

    def set_checkpointing(self, enabled: bool) -> None:
        """Turn activation checkpointing on or off."""
        if hasattr(self.side, "text"):
            self.side.text.set_grad_checkpointing(enabled)
        else:
            self.side.transformer.grad_checkpointing = enabled


def _keep_parts(model: nn.Module, names: Any) -> None:
    """Remove every layer and parameter of the top level but those named."""
    for name, _ in [*model.named_children(), *model.named_parameters(recurse=False)]:
        if name not in names:
            delattr(model, name)
