"""A text tower that answers sooner: its products read weights that were laid out once for oneDNN's kernels.

They are of float32 numbers or, where the processor has units for it, of bf16. For people who ask, never for an
index: in bf16 vectors differ from the library's in the third digit, and as far with what else is in a batch.
Autocast would cast and lay out the weights anew at each call, which takes what bf16 gains on the few tokens of a
search. What is not a product is float32, and padding takes part in attention alone.
Shapes: B texts of L tokens, n of them no padding, N with what fills them up, W width, H heads of E numbers.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.text_towers.bert import Bert
from tuwen.service.settings import Precision

ROWS_STEP = 8  # oneDNN keeps a kernel of each number of tokens that it met: a product has a multiple of this
BF16_UNITS = ("amx_bf16", "avx512_bf16")  # of processors that oneDNN's bf16 kernels are fast on
FUSED = {"gelu": ("gelu", "none"), "gelu_new": ("gelu", "tanh"), "relu": ("relu", ""), "silu": ("swish", "")}


class PackedTextTower(nn.Module):
    """A BERT that shares embeddings and norms with the one that it is made of, and answers as it does."""

    def __init__(self, bert: Bert, dtype: torch.dtype) -> None:
        """dtype: of the products, bfloat16 or float32."""
        super().__init__()
        self._heads, activation = bert.shape.heads, FUSED[bert.shape.activation]
        self.embeddings = bert.embeddings
        self.layers = nn.ModuleList(PackedLayer(layer, activation, dtype) for layer in bert.encoder.layer)

    def forward(self, ids_BL: Tensor, mask_B11L: Tensor | None, token_BLW: Tensor | None = None) -> Tensor:
        """Return the states [B, L, W], 0 where the mask, of padding.py, hides. token_BLW: as of `Bert`."""
        if token_BLW is None:
            token_BLW = self.embeddings.word_embeddings(ids_BL)
        x_BLW = self.embeddings(token_BLW)
        place = _Places(mask_B11L, x_BLW.shape[0], x_BLW.shape[1])
        x_NW = place.take(x_BLW)
        for layer in self.layers:
            x_NW = layer(x_NW, place, self._heads)
        return place.put_back(x_NW)


class _Places:
    """Where the tokens of a batch stand among its padding."""

    def __init__(self, mask_B11L: Tensor | None, texts: int, length: int) -> None:
        self.mask_B11L, self._texts, self._length = mask_B11L, texts, length
        self._at_n = None if mask_B11L is None else mask_B11L.flatten().nonzero().squeeze(1)
        self._count = texts * length if self._at_n is None else len(self._at_n)

    def take(self, x_BLW: Tensor) -> Tensor:
        """Return the tokens [N, W], and zeros up to the next multiple of ROWS_STEP."""
        x_nW = x_BLW.flatten(0, 1)
        if self._at_n is not None:
            x_nW = x_nW[self._at_n]
        return nn.functional.pad(x_nW, (0, 0, 0, -self._count % ROWS_STEP))

    def put_back(self, x_NW: Tensor) -> Tensor:
        """Return [B, L, W], 0 where padding is."""
        x_nW = x_NW[: self._count]
        if self._at_n is not None:
            padded = x_NW.new_zeros(self._texts * self._length, x_NW.shape[1])
            x_nW = padded.index_copy_(0, self._at_n, x_nW)
        return x_nW.view(self._texts, self._length, -1)


class PackedLayer(nn.Module):
    """What bert.py's `Layer` computes, with query, key and value by one product."""

    def __init__(self, layer: Any, activation: tuple[str, str], dtype: torch.dtype) -> None:
        super().__init__()
        own, added = layer.attention["self"], layer.attention["output"]
        self._read = _Product(dtype, own.query, own.key, own.value)
        self._join, self.join_norm = _Product(dtype, added.dense), added.LayerNorm
        self._widen = _Product(dtype, layer.intermediate["dense"], activation=activation)
        self._narrow, self.narrow_norm = _Product(dtype, layer.output.dense), layer.output.LayerNorm

    def forward(self, x_NW: Tensor, place: _Places, heads: int) -> Tensor:
        """Map [N, W] to [N, W]."""
        read_BLV = place.put_back(self._read(x_NW).float())
        read_3BHLE = read_BLV.view(*read_BLV.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        q_BHLE, k_BHLE, v_BHLE = read_3BHLE.unbind()
        read_BHLE = nn.functional.scaled_dot_product_attention(q_BHLE, k_BHLE, v_BHLE, place.mask_B11L)
        x_NW = self.join_norm(self._join(place.take(read_BHLE.transpose(1, 2).flatten(2))) + x_NW)
        out_NW: Tensor = self.narrow_norm(self._narrow(self._widen(x_NW)) + x_NW)
        return out_NW


class _Product:
    """Linear layers that read the same, [N, W] to [N, V]: their outputs beside each other, activated."""

    def __init__(self, dtype: torch.dtype, *layers: nn.Linear, activation: tuple[str, str] = ("none", "")) -> None:
        self._ops: Any = torch.ops.mkldnn
        self._dtype, self._activation = dtype, activation
        weight_VW = torch.cat([layer.weight.detach() for layer in layers]).to(dtype)
        self._weight = self._ops._reorder_linear_weight(weight_VW, None)
        self._bias_V = torch.cat([layer.bias.detach() for layer in layers]).to(dtype)

    def __call__(self, x_NW: Tensor) -> Tensor:
        attribute, algorithm = self._activation
        out_NV: Tensor = self._ops._linear_pointwise(
            x_NW.to(self._dtype), self._weight, self._bias_V, attribute, [], algorithm
        )
        return out_NV


def pack_text_tower(model: DualEncoder, precision: Precision) -> DualEncoder:
    """Return a model that shares all of `model` but the linear layers of the text tower.

    The very model on a GPU, and where torch has no oneDNN. A library's towers stay as they are too, since some
    read the weights of their layers themselves. precision: `bf16`, if the processor has units for it, or `fp32`.
    """
    # torch gives this function no types
    has_kernels = choose_device() == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (has_kernels and isinstance(model.text_tower, Bert)):
        return model
    units = torch.cpu.get_capabilities()
    has_units = any(units.get(name, False) for name in BF16_UNITS)
    dtype = torch.bfloat16 if precision == "bf16" and has_units else torch.float32
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    packed = copy.deepcopy(model, shared)
    assert isinstance(packed.text_tower, Bert)
    packed.text_tower = PackedTextTower(packed.text_tower, dtype)
    return packed
