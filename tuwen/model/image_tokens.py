"""The tokens of an image tower: the states of its last layer, which a cross encoder reads beside the vector.

The first token stands for the whole image: [CLS], or the mean of the patches where the tower averages them; then
come the patches, row by row. All have passed the tower's last norm, as what its projection reads has, so that they
are of one size whatever the depth, and half precision holds them.
Shapes: B images, S pixels a side, P tokens, W width of the tower, D dimensions of the common space.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tuwen.core.errors import UserError
from tuwen.model.image_towers.mean_vit import MeanVit
from tuwen.model.image_towers.vit import VisionTransformer
from tuwen.model.libraries.library_towers import LibraryImageTower
from tuwen.model.libraries.open_clip_towers import OpenClipImageTower
from tuwen.model.towers import OpenClipTower, make_image_tower


class TokenShape(NamedTuple):
    """What one image has: so many tokens of this width."""

    tokens: int
    width: int


def infer_token_shape(image: dict[str, Any]) -> TokenShape:
    """Return the shape of the tokens of the tower that `image`, a config of towers.py, builds; nothing is run.

    Patch dropout, which leaves fewer while training, is not counted. Raises UserError for a tower without tokens.
    """
    with torch.device("meta"):
        tower = make_image_tower(image, 1)
    if isinstance(tower, VisionTransformer):
        return TokenShape(*tower.position_embedding.shape)
    if isinstance(tower, MeanVit):
        return TokenShape(*tower.positional_embedding.shape)
    inner = _find_transformer(tower)
    if _is_timm(inner):
        return TokenShape(inner.trunk.patch_embed.num_patches + 1, inner.trunk.embed_dim)
    return TokenShape(*inner.positional_embedding.shape)


def embed_with_tokens(tower: nn.Module, pixels_B3SS: Tensor) -> tuple[Tensor, Tensor]:
    """Map pixels to what `tower(pixels)` gives, [B, D], bit for bit, and to its tokens [B, P, W].

    Raises UserError for a tower without tokens.
    """
    if isinstance(tower, VisionTransformer | MeanVit):
        return tower.forward_with_tokens(pixels_B3SS)
    inner = _find_transformer(tower)
    # of a tower with a pooling of its own, the last norm is the pooling's
    normed = _is_timm(inner) or inner.attn_pool is None
    shape = {"indices": 1, "output_fmt": "NLC", "output_extra_tokens": True}
    found = inner.forward_intermediates(pixels_B3SS, normalize_intermediates=normed, **shape)
    patches_BPW = found["image_intermediates"][0]
    if _has_class_token(inner):
        first_B1W = found["image_intermediates_prefix"][0][:, :1]
    else:
        first_B1W = patches_BPW.mean(1, keepdim=True)
    out_BD = found["image_features"]
    if isinstance(tower, OpenClipTower):
        out_BD = tower.projection(out_BD)
    return out_BD, torch.cat([first_B1W, patches_BPW], dim=1)


def _find_transformer(tower: nn.Module) -> Any:
    """Return open_clip's transformer in the tower. Raises UserError where there is none."""
    inner = tower.tower if isinstance(tower, OpenClipTower) else tower
    if hasattr(inner, "transformer") or _is_timm(inner):
        return inner
    name = (
        "a whole model of a library"
        if isinstance(tower, LibraryImageTower | OpenClipImageTower)
        else type(inner).__name__
    )
    name = type(inner.trunk).__name__ if hasattr(inner, "trunk") else name
    raise UserError(
        f"config.json: image: a re-ranker reads the tokens of a transformer's last layer, and {name} has none; "
        "take a picture tower of kind vit, or a transformer of open_clip"
    )


def _is_timm(inner: Any) -> bool:
    """Whether it is a transformer of timm; its networks of convolutions have no prefix of tokens."""
    return hasattr(inner, "trunk") and hasattr(inner.trunk, "num_prefix_tokens")


def _has_class_token(inner: Any) -> bool:
    """Whether the tower's vector is made of [CLS] and not of the mean of the patches."""
    return bool(inner.trunk.num_prefix_tokens) if _is_timm(inner) else inner.pool_type != "avg"
