"""A vision transformer whose patches are averaged: the image tower of a model that starts from nothing.

Its modules are drawn in the order, and have the names, of open_clip's VisionTransformer with `pool_type: avg`, and
compute its bits: so stored models stay readable without that package, whose import takes seconds.
Shapes: B images, S pixels a side, N patches, K of them kept, L = K + 1 positions, W width, D dimensions of the
common space.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class MeanVit(nn.Module):
    """Layers that map pixels [B, 3, S, S] to [B, D].

    config: size_px, patch_px, width, layers, patch_dropout (share of patches left out while training).
    """

    def __init__(self, config: dict[str, Any], dim: int) -> None:
        super().__init__()
        width, patch = config["width"], config["patch_px"]
        positions = (config["size_px"] // patch) ** 2 + 1
        self.patch_dropout: float = config["patch_dropout"]
        self.checkpointing = False
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(positions, width))
        self.ln_pre = Norm(width)
        blocks = nn.ModuleList(MeanVitBlock(width) for _ in range(config["layers"]))
        self.transformer: Any = nn.ModuleDict({"resblocks": blocks})
        self.ln_post = Norm(width)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, dim))

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """Map pixels [B, 3, S, S], normalised as the model was trained with them, to [B, D], not normalised."""
        return self.forward_with_tokens(pixels_B3SS)[0]

    def forward_with_tokens(self, pixels_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels to what `forward` returns, [B, D], and to the tokens [B, L, W]: the patches' mean, then they.

        While training, patch dropout leaves some of them out.
        """
        patch_BKW = self.ln_post(self._run_blocks(pixels_B3SS))[:, 1:]
        mean_BW = patch_BKW.mean(1)
        return mean_BW @ self.proj, torch.cat([mean_BW[:, None], patch_BKW], dim=1)

    def _run_blocks(self, pixels_B3SS: Tensor) -> Tensor:
        patch_BNW = self.conv1(pixels_B3SS).flatten(2).transpose(1, 2)
        first_B1W = self.class_embedding.expand(patch_BNW.shape[0], 1, -1).to(patch_BNW.dtype)
        x_BLW: Tensor = torch.cat([first_B1W, patch_BNW], dim=1) + self.positional_embedding.to(patch_BNW.dtype)
        if self.training and self.patch_dropout:
            x_BLW = _draw_patches(x_BLW, 1 - self.patch_dropout)
        x_BLW = self.ln_pre(x_BLW)
        for block in self.transformer.resblocks:
            if self.checkpointing and self.training:
                x_BLW = checkpoint(block, x_BLW, use_reentrant=False)
            else:
                x_BLW = block(x_BLW)
        return x_BLW


class Norm(nn.LayerNorm):
    """A LayerNorm that leaves the stream in the precision that it came in, as autocast alone would not."""

    def forward(self, x_BLW: Tensor) -> Tensor:
        """Map [B, L, W] to [B, L, W]."""
        return super().forward(x_BLW).to(x_BLW.dtype)


class MeanVitBlock(nn.Module):
    """Attention, then a perceptron of two layers; each reads its input through a norm and is added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = Norm(width)
        self.attn = nn.MultiheadAttention(width, max(1, width // 64), batch_first=True)
        self.ln_2 = Norm(width)
        layers = {"c_fc": nn.Linear(width, 4 * width), "gelu": nn.GELU(), "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.ModuleDict(layers)

    def forward(self, x_BLW: Tensor) -> Tensor:
        """Map [B, L, W] to [B, L, W]."""
        normed_BLW = self.ln_1(x_BLW)
        x_BLW = x_BLW + self.attn(normed_BLW, normed_BLW, normed_BLW, need_weights=False)[0]
        inner_BLM = self.mlp["gelu"](self.mlp["c_fc"](self.ln_2(x_BLW)))
        out: Tensor = x_BLW + self.mlp["c_proj"](inner_BLM)
        return out


def _draw_patches(x_BLW: Tensor, share: float) -> Tensor:
    """Return [CLS] and a share of each image's patches, at least one, drawn anew for every image."""
    batch, positions, _ = x_BLW.shape
    drawn_BK = (
        torch.randn(batch, positions - 1).topk(max(1, int((positions - 1) * share))).indices.to(x_BLW.device)
    )
    row_B1 = torch.arange(batch, device=x_BLW.device)[:, None]
    return torch.cat([x_BLW[:, :1], x_BLW[:, 1:][row_B1, drawn_BK]], dim=1)
