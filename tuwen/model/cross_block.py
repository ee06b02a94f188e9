"""A block of the cross encoder: self-attention, cross-attention, a perceptron, each added to its input and normed.

The norm comes after the sum, as in BERT and in R2D2's two cross-encoders (Xie et al. 2022, section 3.1), so that a
block can start from a layer of a text tower.
Shapes: B pairs, Q positions that ask, L positions of the block's own stream, K of the other one, W width, C width
of the other stream, H heads of E numbers.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

EPS = 1e-12  # of the norms, as in BERT
# parts of a block -> where they stand in a layer of a BERT that has a cross-attention, R2D2's among them
BERT_PARTS = {
    "own.query": ("attention.self.query",),
    "own.key_value": ("attention.self.key", "attention.self.value"),
    "own.out": ("attention.output.dense",),
    "own.norm": ("attention.output.LayerNorm",),
    "other.query": ("crossattention.self.query",),
    "other.key_value": ("crossattention.self.key", "crossattention.self.value"),
    "other.out": ("crossattention.output.dense",),
    "other.norm": ("crossattention.output.LayerNorm",),
    "fc1": ("intermediate.dense",),
    "fc2": ("output.dense",),
    "norm": ("output.LayerNorm",),
}


class Memory(NamedTuple):
    """What is attended to: keys and values [B, H, K, E], and which of the K count, bool [B, 1, 1, K], or None."""

    key: Tensor
    value: Tensor
    mask: Tensor | None

    def pick(self, row_B: Tensor | None) -> "Memory":
        """Return the memory of the given rows, each as often as it is named; all where None."""
        if row_B is None:
            return self
        return Memory(self.key[row_B], self.value[row_B], None if self.mask is None else self.mask[row_B])


class Attention(nn.Module):
    """Attention of a stream of `width` to one of `other_width`, added to its input and normed."""

    def __init__(self, width: int, heads: int, other_width: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(other_width, 2 * width)
        self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width, EPS)
        for linear in (self.query, self.key_value, self.out):
            draw_weights(linear)

    def read(self, other_BKC: Tensor, mask_BK: Tensor | None = None) -> Memory:
        """Return the keys and values of [B, K, C]; mask [B, K]: 1 for what counts."""
        kv_BK2HE = self.key_value(other_BKC).unflatten(-1, (2, self.heads, -1))
        key_BHKE, value_BHKE = kv_BK2HE.permute(2, 0, 3, 1, 4)
        return Memory(key_BHKE, value_BHKE, None if mask_BK is None else mask_BK[:, None, None].bool())

    def forward(self, x_BQW: Tensor, memory: Memory) -> Tensor:
        """Map [B, Q, W] to [B, Q, W]."""
        dropout = self.dropout if self.training else 0.0
        attended_BHQE = nn.functional.scaled_dot_product_attention(
            self._ask(x_BQW), memory.key, memory.value, memory.mask, dropout
        )
        out_BQW = self.out(attended_BHQE.transpose(1, 2).flatten(2))
        normed: Tensor = self.norm(x_BQW + nn.functional.dropout(out_BQW, self.dropout, self.training))
        return normed

    def weigh(self, x_BQW: Tensor, memory: Memory) -> Tensor:
        """Return the weights [B, H, Q, K] by which `forward` sums values, and which it does not keep."""
        query_BHQE = self._ask(x_BQW)
        score_BHQK = query_BHQE @ memory.key.mT * query_BHQE.shape[-1] ** -0.5
        if memory.mask is not None:
            score_BHQK = score_BHQK.masked_fill(~memory.mask, -torch.inf)
        weights_BHQK: Tensor = score_BHQK.softmax(-1)
        return weights_BHQK

    def _ask(self, x_BQW: Tensor) -> Tensor:
        """Return the queries [B, H, Q, E] of a stream."""
        query_BHQE: Tensor = self.query(x_BQW).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return query_BHQE


class CrossBlock(nn.Module):
    """A block of one stream, which reads another of `other_width`; without that it has self-attention alone."""

    def __init__(self, width: int, heads: int, mlp: int, dropout: float, other_width: int | None) -> None:
        super().__init__()
        self.dropout = dropout
        self.own = Attention(width, heads, width, dropout)
        self.other = None
        if other_width is not None:
            self.other = Attention(width, heads, other_width, dropout)
            nn.init.zeros_(self.other.out.weight)  # it begins as if the other stream were not there
        self.fc1, self.fc2 = nn.Linear(width, mlp), nn.Linear(mlp, width)
        self.norm = nn.LayerNorm(width, EPS)
        for linear in (self.fc1, self.fc2):
            draw_weights(linear)

    def forward(
        self, x_BLW: Tensor, mask_BL: Tensor | None, memory: Memory | None, first_alone: bool = False
    ) -> Tensor:
        """Map [B, L, W] to [B, L, W], or with `first_alone` to its first position alone, [B, 1, W].

        mask_BL: 1 for the positions that count. memory: the other stream, as `other.read` gives it.
        """
        own = self.own.read(x_BLW, mask_BL)
        x_BQW = self.own(x_BLW[:, :1] if first_alone else x_BLW, own)
        if self.other is not None:
            assert memory is not None
            x_BQW = self.other(x_BQW, memory)
        inner = self.fc2(nn.functional.gelu(self.fc1(x_BQW)))
        normed: Tensor = self.norm(x_BQW + nn.functional.dropout(inner, self.dropout, self.training))
        return normed


def draw_weights(linear: nn.Linear) -> None:
    """Draw a matrix that keeps the variance of its input, without a bias."""
    nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
    nn.init.zeros_(linear.bias)


@torch.no_grad()
def copy_bert_layer(block: nn.Module, layer: nn.Module) -> None:
    """Start self-attention and perceptron of `block` from a layer of a BERT of the same shape.

    The norm after the cross-attention, which adds nothing yet, repeats the one before it.
    """
    assert isinstance(block, CrossBlock)
    theirs, ours = layer.state_dict(), block.state_dict()
    for part, names in BERT_PARTS.items():
        if not part.startswith("other."):
            for kind in ("weight", "bias"):
                ours[f"{part}.{kind}"].copy_(torch.cat([theirs[f"{name}.{kind}"] for name in names]))
    if block.other is not None:
        block.other.norm.load_state_dict(block.own.norm.state_dict())
