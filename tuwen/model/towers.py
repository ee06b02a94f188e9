"""Build the towers from their configs: for images ViTs, ResNets and open_clip's, for texts a BERT; or a library's.

The image towers of kinds `vit` and `efficientnet_lite0`, those without a kind and the text tower need torch alone.
"""

from typing import Any

from torch import Tensor, nn

from tuwen.core.errors import UserError
from tuwen.model.image_towers.efficientnet import EfficientNetLite0
from tuwen.model.image_towers.mean_vit import MeanVit
from tuwen.model.image_towers.vit import VisionTransformer
from tuwen.model.libraries.library_towers import LibraryImageTower, LibraryTextTower
from tuwen.model.libraries.open_clip_towers import OpenClipImageTower, OpenClipTextTower, require_open_clip
from tuwen.model.text_towers.bert import Bert, BertShape


def make_image_tower(config: dict[str, Any], dim: int) -> nn.Module:
    """Return the layers that map pixels [B, 3, S, S] to [B, dim], by `config["kind"]`.

    `vit`: vit.py. `efficientnet_lite0`: image_towers. `resnet`: CLIP's ResNet {size_px, width, layers, heads}.
    `open_clip`: any tower of open_clip {size_px, embed_dim, vision_cfg, quick_gelu} under a projection of our own.
    `transformers`: library_towers.py. `open_clip_hub`: open_clip_towers.py. Without a kind: mean_vit.py. Raises
    UserError for another kind, or where open_clip is needed and not installed.
    """
    kind = config.get("kind", "mean_vit")
    builders = {"vit": VisionTransformer, "resnet": _make_resnet, "open_clip": OpenClipTower}
    builders |= {"efficientnet_lite0": EfficientNetLite0, "mean_vit": MeanVit}
    builders |= {"transformers": LibraryImageTower, "open_clip_hub": OpenClipImageTower}
    if kind not in builders:
        raise UserError(f"config.json: image.kind: expected one of {', '.join(builders)}, got {kind!r}")
    tower: nn.Module = builders[kind](config, dim)
    return tower


def make_text_tower(config: dict[str, Any], vocabulary: int) -> nn.Module:
    """Return a BERT without its pooler, or of a `kind` the text side of that library's model.

    config: width, layers, dropout, max_tokens. What is left out is BERT's own: heads 64 wide, mlp four times the
    width, eps 1e-12, and positions for `max_tokens`.
    """
    if "kind" in config:
        return (LibraryTextTower if config["kind"] == "transformers" else OpenClipTextTower)(config)
    return Bert(BertShape.of(config, vocabulary))


def set_image_checkpointing(tower: nn.Module, enabled: bool) -> None:
    """Turn activation checkpointing of the image tower on or off."""
    if isinstance(tower, VisionTransformer | EfficientNetLite0 | MeanVit):
        tower.checkpointing = enabled
    elif isinstance(tower, LibraryImageTower | OpenClipImageTower):
        tower.set_checkpointing(enabled)
    else:
        inner: Any = tower.tower if isinstance(tower, OpenClipTower) else tower
        inner.set_grad_checkpointing(enabled)


def set_text_checkpointing(tower: Any, enabled: bool) -> None:
    """Turn activation checkpointing of the text tower on or off."""
    if isinstance(tower, LibraryTextTower | OpenClipTextTower):
        tower.set_checkpointing(enabled)
    else:
        tower.checkpointing = enabled


def stop_patch_dropout(tower: nn.Module) -> None:
    """Leave out no patch from here on, also while training."""
    module: Any
    for module in tower.modules():
        if isinstance(module, VisionTransformer | MeanVit):
            module.patch_dropout = 0.0
        elif type(module).__name__ == "PatchDropout":  # of open_clip and of timm
            module.prob = 0.0


class OpenClipTower(nn.Module):
    """A tower of open_clip under a fresh projection, in place of the projection that a transformer brings."""

    def __init__(self, config: dict[str, Any], dim: int) -> None:
        super().__init__()
        require_open_clip()
        from open_clip.model import _build_vision_tower

        self.tower = _build_vision_tower(config["embed_dim"], dict(config["vision_cfg"]), config["quick_gelu"])
        width = config["embed_dim"]
        if isinstance(getattr(self.tower, "proj", None), nn.Parameter):
            width, self.tower.proj = self.tower.proj.shape[0], None
        self.projection = nn.Linear(width, dim, bias=False)
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """Pixels [B, 3, S, S] -> [B, dim]."""
        out: Tensor = self.projection(self.pool(pixels_B3SS))
        return out

    def pool(self, pixels_B3SS: Tensor) -> Tensor:
        """Map pixels to what the projection reads."""
        pooled: Tensor = self.tower(pixels_B3SS)
        return pooled


def _make_resnet(config: dict[str, Any], dim: int) -> nn.Module:
    require_open_clip()
    from open_clip.modified_resnet import ModifiedResNet

    shape = {"image_size": config["size_px"], "width": config["width"], "heads": config["heads"]}
    tower: nn.Module = ModifiedResNet(layers=config["layers"], output_dim=dim, **shape)
    return tower
