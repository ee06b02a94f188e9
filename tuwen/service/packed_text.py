"""A text tower that answers sooner: products in bf16, their weights laid out once as oneDNN's kernels read them.

For people who ask, never for an index: vectors differ from the float32 ones in the third digit, and as far with
what else is in a batch. Autocast would cast and lay out the weights anew at each call, which takes what bf16 gains
on the few tokens of a search.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder

BF16_UNITS = ("amx_bf16", "avx512_bf16")  # of processors that oneDNN's bf16 kernels are fast on


class PackedLinear(nn.Module):
    """A linear layer, float32 in and out [..., W], whose product is of bf16 numbers and summed in float32."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self._ops: Any = torch.ops.mkldnn
        self._weight = self._ops._reorder_linear_weight(layer.weight.detach().bfloat16(), None)
        self._bias = None if layer.bias is None else layer.bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., W] to [..., V]."""
        y: Tensor = self._ops._linear_pointwise(x.bfloat16(), self._weight, self._bias, "none", [], "")
        return y.float()


def pack_text_tower(model: DualEncoder) -> DualEncoder:
    """Return a model that shares all of `model` but the linear layers of the text tower.

    The very model where that would not be faster: on a GPU, and on a processor without units for bf16. A library's
    towers stay as they are too, since some read the weights of their layers themselves.
    """
    units = torch.cpu.get_capabilities()
    is_faster = choose_device() == "cpu" and any(units.get(name, False) for name in BF16_UNITS)
    if not (is_faster and model.takes_token_vectors):
        return model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    packed = copy.deepcopy(model, shared)
    for name, layer in list(packed.text_tower.named_modules()):
        if isinstance(layer, nn.Linear):
            packed.text_tower.set_submodule(name, PackedLinear(layer))
    return packed
