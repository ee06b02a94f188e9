"""A model of which each process keeps a share: of every weight, its gradient and the optimizer's state (FSDP2).

A layer's weights are gathered before it computes, and let go afterwards; its gradient is averaged and dealt at
once. The temperature and a sigmoid's bias, single numbers, stay whole in every process.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.precision import HALF_TYPES, choose_precision
from tuwen.training import distributed
from tuwen.training.engines.replicas import Passed, Passes


class Shards:
    """The engine of several processes with a share of the model each."""

    def __init__(self, model: DualEncoder, precision: str) -> None:
        half = HALF_TYPES.get(choose_precision(precision))
        # autocast goes on inside: norms stay float32, and what is added up between the layers too
        policy = MixedPrecisionPolicy(half, torch.float32, cast_forward_inputs=False)
        mesh = init_device_mesh(choose_device(), (distributed.count_ranks(),))
        self._numbers = [parameter for parameter in model.parameters() if parameter.ndim == 0]
        self._passes = Passes(model)
        for unit in (*_list_units(model), self._passes):
            fully_shard(unit, mesh=mesh, mp_policy=policy, ignored_params=set(self._numbers))

    def run(self, compute: Callable[[], Passed]) -> Passed:
        """Return what `compute` returns."""
        result: Passed = self._passes(compute)
        return result

    def hold(self) -> AbstractContextManager[None]:
        """Do nothing: gradients that are only added up would lie whole in every process."""
        return nullcontext()

    def finish_gradients(self) -> None:
        """Average the gradients of what stays whole."""
        for number in self._numbers:
            if number.grad is not None:
                number.grad.copy_(distributed.average_over_ranks(number.grad))


def _list_units(model: DualEncoder) -> Iterator[nn.Module]:
    """Yield what is gathered at once, inner layers first: each numbered layer, the tokens' table, the rest."""
    for tower in (model.image_tower, model.text_tower):
        for layers in reversed([one for one in tower.modules() if isinstance(one, nn.ModuleList)]):
            yield from (layer for layer in layers if not isinstance(layer, nn.ModuleList))
    text_tower: Any = model.text_tower
    if model.takes_token_vectors:  # they are looked up before the tower's own pass
        yield text_tower.get_input_embeddings()
    yield from (model.image_tower, text_tower, model.text_projection)
