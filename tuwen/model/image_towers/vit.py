"""CLIP's vision transformer: the image tower of every Chinese-CLIP ViT. Needs torch alone.

Pre-norm blocks, [CLS] first, a norm before and after them (Radford et al. 2021, section 2.4). Query, key and
value are one matrix, so that a block has four products.
Shapes: B images, S pixels a side, N patches, K of them kept, L = N + 1 positions, W width, H heads of E numbers,
M numbers inside a perceptron, D dimensions of the common space.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

QUICK_GELU_FACTOR = 1.702  # in the sigmoid that approximates the GELU (Hendrycks & Gimpel 2016)


class VisionTransformer(nn.Module):
    """Layers that map pixels [B, 3, S, S] to [B, D].

    config: size_px, patch_px, width, layers, heads, mlp (width inside a block), activation (`quick_gelu` or
    `gelu`), eps (of the norms), patch_dropout (share of patches left out while training: FLIP, Li et al. 2023).
    """

    def __init__(self, config: dict[str, Any], dim: int) -> None:
        super().__init__()
        width, patch = config["width"], config["patch_px"]
        positions = (config["size_px"] // patch) ** 2 + 1
        self.patch_dropout: float = config["patch_dropout"]
        self.checkpointing = False
        self.patches = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.position_embedding = nn.Parameter(width**-0.5 * torch.randn(positions, width))
        self.norm_pre = nn.LayerNorm(width, config["eps"])
        self.layer = nn.ModuleList(Block(config) for _ in range(config["layers"]))
        self.norm_post = nn.LayerNorm(width, config["eps"])
        self.projection = nn.Linear(width, dim, bias=False)
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """Map pixels [B, 3, S, S], normalised as the model was trained with them, to [B, D], not normalised."""
        out: Tensor = self.projection(self.pool(pixels_B3SS))
        return out

    def pool(self, pixels_B3SS: Tensor) -> Tensor:
        """Map pixels to what the projection reads, [B, W]."""
        normed: Tensor = self.norm_post(self._run_blocks(pixels_B3SS)[:, 0])
        return normed

    def forward_with_tokens(self, pixels_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels to what `forward` returns, [B, D], and to the normed states of the last layer, [B, L, W].

        The first state is that of [CLS]. While training, patch dropout leaves some of the others out.
        """
        x_BLW = self._run_blocks(pixels_B3SS)
        return self._project(x_BLW), self.norm_post(x_BLW)

    def _project(self, x_BLW: Tensor) -> Tensor:
        out: Tensor = self.projection(self.norm_post(x_BLW[:, 0]))
        return out

    def _run_blocks(self, pixels_B3SS: Tensor) -> Tensor:
        patch_BNW = self.patches(pixels_B3SS).flatten(2).transpose(1, 2) + self.position_embedding[1:]
        if self.training and self.patch_dropout:
            patch_BNW = _draw_patches(patch_BNW, 1 - self.patch_dropout)
        first_W = self.class_embedding + self.position_embedding[0]
        start_BLW = torch.cat([first_W.to(patch_BNW.dtype).expand(patch_BNW.shape[0], 1, -1), patch_BNW], dim=1)
        x_BLW: Tensor = self.norm_pre(start_BLW)
        for block in self.layer:
            if self.checkpointing and self.training:
                x_BLW = checkpoint(block, x_BLW, use_reentrant=False)
            else:
                x_BLW = block(x_BLW)
        return x_BLW


class Block(nn.Module):
    """Attention, then a perceptron of two layers; each reads its input through a norm and is added to it."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, inner, eps = config["width"], config["mlp"], config["eps"]
        self.heads: int = config["heads"]
        self.quick: bool = config["activation"] == "quick_gelu"
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
        # CLIP's own deviations (its model.py, initialize_parameters): what is added back shrinks with the depth
        added = width**-0.5 * (2 * config["layers"]) ** -0.5
        for linear, std in ((self.qkv, width**-0.5), (self.out, added), (self.fc2, added)):
            nn.init.normal_(linear.weight, std=std)
        nn.init.normal_(self.fc1.weight, std=(2 * width) ** -0.5)
        for linear in (self.qkv, self.out, self.fc1, self.fc2):
            nn.init.zeros_(linear.bias)

    def forward(self, x_BLW: Tensor) -> Tensor:
        """Map [B, L, W] to [B, L, W]."""
        qkv_BL3HE = self.qkv(self.norm1(x_BLW)).unflatten(-1, (3, self.heads, -1))
        q_BHLE, k_BHLE, v_BHLE = qkv_BL3HE.permute(2, 0, 3, 1, 4)
        attended_BHLE = nn.functional.scaled_dot_product_attention(q_BHLE, k_BHLE, v_BHLE)
        x_BLW = x_BLW + self.out(attended_BHLE.transpose(1, 2).flatten(2))
        return x_BLW + self._perceptron(self.norm2(x_BLW))

    def _perceptron(self, x_BLW: Tensor) -> Tensor:
        fc1, fc2, linear = self.fc1, self.fc2, nn.functional.linear
        if not self.quick:
            out: Tensor = fc2(nn.functional.gelu(fc1(x_BLW)))
            return out
        # OpenAI trained with the approximation; its weights score points lower with the exact GELU.
        # x sigmoid(1.702 x) = silu(1.702 x) / 1.702, with the factors on the matrices, which are smaller than x
        inner_BLM = nn.functional.silu(linear(x_BLW, QUICK_GELU_FACTOR * fc1.weight, QUICK_GELU_FACTOR * fc1.bias))
        return linear(inner_BLM, fc2.weight / QUICK_GELU_FACTOR, fc2.bias)


def _draw_patches(patch_BNW: Tensor, share: float) -> Tensor:
    """Return a share of each image's patches, at least one, drawn anew for every image: [B, N, W] -> [B, K, W]."""
    batch, patches, width = patch_BNW.shape
    count = max(1, int(patches * share))
    drawn_BK = torch.rand(batch, patches, device=patch_BNW.device).topk(count).indices
    return patch_BNW.gather(1, drawn_BK[..., None].expand(-1, -1, width))
