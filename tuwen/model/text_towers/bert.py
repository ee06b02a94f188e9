"""BERT without its pooler: the text tower of every Chinese-CLIP and of multilingual-e5. Needs torch alone.

Post-norm layers (Devlin et al. 2019). Its modules are drawn in the order, and have the names, of transformers'
BertModel, so published weights fit as they are, and a seed gives the same ones; to import that class takes longer
than to load torch (docs/log.md).
Shapes: B texts of L tokens, W width, H heads of E numbers.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tuwen.core.errors import UserError

SEGMENTS = 2  # rows of token_type_embeddings; a caption is all of the first segment
DRAWN_STD = 0.02
ACTIVATIONS = {
    "gelu": nn.functional.gelu,
    "gelu_new": partial(nn.functional.gelu, approximate="tanh"),
    "relu": nn.functional.relu,
    "silu": nn.functional.silu,
}


class BertShape(NamedTuple):
    """The sizes of a BERT; what a config leaves out is BERT's own."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    mlp: int  # width inside a layer
    positions: int
    dropout: float
    eps: float  # of the norms
    activation: str

    @classmethod
    def of(cls, config: dict[str, Any], vocabulary: int) -> "BertShape":
        """Return the shape of a text tower; config: `text` of dual_encoder.py. Raises UserError where none is."""
        width = config["width"]
        shape = cls(
            vocabulary,
            width,
            config["layers"],
            config.get("heads", max(1, width // 64)),
            config.get("mlp", 4 * width),
            config.get("positions", config["max_tokens"]),
            config["dropout"],
            config.get("eps", 1e-12),
            config.get("activation", "gelu"),
        )
        if shape.activation not in ACTIVATIONS:
            raise UserError(
                f"config.json: text.activation: expected one of {', '.join(ACTIVATIONS)}, got {shape.activation!r}"
            )
        if width % shape.heads:
            raise ValueError(f"text.width: {width} is no multiple of {shape.heads} heads")
        return shape


class Bert(nn.Module):
    """Layers that map token ids [B, L], or their vectors, to the states [B, L, W] of the last one."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.shape, self.checkpointing = shape, False
        self.embeddings = TokenEmbeddings(shape)
        self.encoder: Any = nn.ModuleDict({"layer": nn.ModuleList(Layer(shape) for _ in range(shape.layers))})
        self.apply(_draw_weights)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the table of the tokens' vectors."""
        return self.embeddings.word_embeddings

    def forward(self, ids_BL: Tensor | None, mask_B11L: Tensor | None, token_BLW: Tensor | None = None) -> Tensor:
        """Return the states [B, L, W]; mask_B11L: of padding.py. token_BLW: in place of the ids, their vectors."""
        if token_BLW is None:
            token_BLW = self.embeddings.word_embeddings(ids_BL)
        x_BLW: Tensor = self.embeddings(token_BLW)
        for layer in self.encoder.layer:
            if self.checkpointing and self.training:
                x_BLW = checkpoint(layer, x_BLW, mask_B11L, use_reentrant=False)
            else:
                x_BLW = layer(x_BLW, mask_B11L)
        return x_BLW


def _draw_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=DRAWN_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()


class TokenEmbeddings(nn.Module):
    """The sum of a token's vector, its position's and its segment's, normed."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocabulary, shape.width, padding_idx=0)
        self.position_embeddings = nn.Embedding(shape.positions, shape.width)
        self.token_type_embeddings = nn.Embedding(SEGMENTS, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width, shape.eps)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, token_BLW: Tensor) -> Tensor:
        """Map tokens' vectors [B, L, W] to [B, L, W]."""
        position_LW = self.position_embeddings.weight[: token_BLW.shape[1]]
        x_BLW = token_BLW + self.token_type_embeddings.weight[0] + position_LW
        normed: Tensor = self.dropout(self.LayerNorm(x_BLW))
        return normed


class Layer(nn.Module):
    """Self-attention, then a perceptron of two layers; each is added to its input and normed."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(shape), "output": AddAndNorm(shape, shape.width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(shape.width, shape.mlp)})
        self.output = AddAndNorm(shape, shape.mlp)
        self._activate: Any = ACTIVATIONS[shape.activation]

    def forward(self, x_BLW: Tensor, mask_B11L: Tensor | None) -> Tensor:
        """Map [B, L, W] to [B, L, W]."""
        x_BLW = self.attention["output"](self.attention["self"](x_BLW, mask_B11L), x_BLW)
        out: Tensor = self.output(self._activate(self.intermediate["dense"](x_BLW)), x_BLW)
        return out


class SelfAttention(nn.Module):
    """Each position's reading of all others, before it is added."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self._heads = shape.heads
        self.query, self.key, self.value = (nn.Linear(shape.width, shape.width) for _ in range(3))
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x_BLW: Tensor, mask_B11L: Tensor | None) -> Tensor:
        """Map [B, L, W] to [B, L, W]."""
        q_BHLE, k_BHLE, v_BHLE = (
            linear(x_BLW).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        dropout = self.dropout.p if self.training else 0.0
        out_BHLE = nn.functional.scaled_dot_product_attention(q_BHLE, k_BHLE, v_BHLE, mask_B11L, dropout)
        return out_BHLE.transpose(1, 2).flatten(2)


class AddAndNorm(nn.Module):
    """A projection of `inner` numbers to the width, added to what a part of a layer began with, and normed."""

    def __init__(self, shape: BertShape, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width, shape.eps)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, inner_BLM: Tensor, x_BLW: Tensor) -> Tensor:
        """Map [B, L, inner] and [B, L, W] to [B, L, W]."""
        normed: Tensor = self.LayerNorm(self.dropout(self.dense(inner_BLM)) + x_BLW)
        return normed
