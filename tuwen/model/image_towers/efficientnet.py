"""EfficientNet-Lite0 (Liu 2020, after Tan & Le 2019): a small image tower of convolutions. Needs torch alone.

Sixteen blocks of a depthwise convolution between two pointwise ones, no squeeze-and-excitation, ReLU6; padded as
TensorFlow pads, more at the lower right, since the published weights were trained so.
Shapes: B images, S pixels a side, C channels, H positions a side, D dimensions of the common space.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.checkpoint import checkpoint

STEM_WIDTH, HEAD_WIDTH = 32, 1280  # channels of the first and of the last convolution
NORM_EPS = 1e-3  # of the norms


class BlockGroup(NamedTuple):
    """Blocks of one width, a stage; the first of them has the stride."""

    expansion: int  # channels inside a block for each one that comes in
    kernel: int
    stride: int
    channels: int
    blocks: int


STAGES = (
    BlockGroup(1, 3, 1, 16, 1),
    BlockGroup(6, 3, 2, 24, 2),
    BlockGroup(6, 5, 2, 40, 2),
    BlockGroup(6, 3, 2, 80, 3),
    BlockGroup(6, 5, 1, 112, 3),
    BlockGroup(6, 5, 2, 192, 4),
    BlockGroup(6, 3, 1, 320, 1),
)


class EfficientNetLite0(nn.Module):
    """Layers that map pixels [B, 3, S, S] to [B, D]: the mean of the last convolution's positions, projected.

    config: `size_px` alone, which no layer depends on.
    """

    def __init__(self, config: dict[str, Any], dim: int) -> None:
        super().__init__()
        self.checkpointing = False
        self.stem = ConvNorm(3, STEM_WIDTH, 3, stride=2)
        self.layer = nn.ModuleList(_make_blocks())
        self.head = ConvNorm(STAGES[-1].channels, HEAD_WIDTH, 1)
        self.projection = nn.Linear(HEAD_WIDTH, dim, bias=False)
        nn.init.normal_(self.projection.weight, std=HEAD_WIDTH**-0.5)

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """Map pixels [B, 3, S, S], normalised as the model was trained with them, to [B, D], not normalised."""
        out: Tensor = self.projection(self.pool(pixels_B3SS))
        return out

    def pool(self, pixels_B3SS: Tensor) -> Tensor:
        """Map pixels to what the projection reads, [B, HEAD_WIDTH]."""
        # a CPU multiplies the channels of a position three times as fast where they lie side by side
        x_BCHH = self.stem(pixels_B3SS.contiguous(memory_format=torch.channels_last))
        for block in self.layer:
            checkpointed = self.checkpointing and self.training
            x_BCHH = checkpoint(block, x_BCHH, use_reentrant=False) if checkpointed else block(x_BCHH)
        pooled: Tensor = self.head(x_BCHH).mean((2, 3))
        return pooled


class ConvNorm(nn.Module):
    """A convolution, its BatchNorm, and ReLU6 unless `linear`; the stride alone makes an image smaller."""

    def __init__(
        self, channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, NORM_EPS)
        self._linear = linear

    def forward(self, x_BCHH: Tensor) -> Tensor:
        """Map [B, C, H, H] to [B, out, ceil(H / stride), ceil(H / stride)]."""
        weight, bias = self._fold_norm() if self._is_fixed else (self.conv.weight, None)
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        missing = max(0, kernel - ((x_BCHH.shape[-1] - 1) % stride + 1))
        before, after = missing // 2, missing - missing // 2
        if before != after:  # where they are equal the convolution's own padding spares a copy
            x_BCHH, before = nn.functional.pad(x_BCHH, (before, after, before, after)), 0
        x_BCHH = nn.functional.conv2d(x_BCHH, weight, bias, stride, before, groups=self.conv.groups)
        if bias is None:
            x_BCHH = self.norm(x_BCHH)
        return x_BCHH if self._linear else nn.functional.relu6(x_BCHH, inplace=self._is_fixed)

    @property
    def _is_fixed(self) -> bool:
        return not (self.norm.training or torch.is_grad_enabled())

    def _fold_norm(self) -> tuple[Tensor, Tensor]:
        """Return a weight and a bias for both at once: norms took half of a CPU's time (docs/log.md)."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        return fuse_conv_bn_weights(
            self.conv.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )


class InvertedResidual(nn.Module):
    """An inverted residual (Sandler et al. 2018): wider, filtered channel by channel, narrow again, added."""

    def __init__(self, stage: BlockGroup, channels: int, stride: int) -> None:
        super().__init__()
        inside = stage.expansion * channels
        self.expand = ConvNorm(channels, inside, 1) if stage.expansion > 1 else None
        self.filter = ConvNorm(inside, inside, stage.kernel, stride=stride, groups=inside)
        self.shrink = ConvNorm(inside, stage.channels, 1, linear=True)
        self._adds = stride == 1 and channels == stage.channels

    def forward(self, x_BCHH: Tensor) -> Tensor:
        """Map [B, C, H, H] to the stage's channels and size."""
        inside = x_BCHH if self.expand is None else self.expand(x_BCHH)
        out: Tensor = self.shrink(self.filter(inside))
        return x_BCHH + out if self._adds else out


def _make_blocks() -> Iterator[InvertedResidual]:
    channels = STEM_WIDTH
    for stage in STAGES:
        for number in range(stage.blocks):
            yield InvertedResidual(stage, channels, stage.stride if number == 0 else 1)
            channels = stage.channels
