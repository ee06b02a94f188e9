"""A model of which each process keeps a share: of every weight, its gradient and the optimizer's state (FSDP2).

A layer's weights are gathered before it computes, and let go afterwards; its gradient is averaged and dealt at
once. The temperature and a sigmoid's bias, single numbers, stay whole in every process.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

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


def get_local(value: Tensor) -> Tensor:
    """Return the share of a tensor that this process keeps, the same memory; of a whole tensor itself."""
    local: Tensor = value.to_local() if isinstance(value, DTensor) else value
    return local


def split_group(group: dict[str, object], parameters: list[nn.Parameter]) -> Iterator[dict[str, object]]:
    """Yield an optimizer's group, in two where some of its parameters are shares and others whole.

    torch's fused kernels take one kind at once.
    """
    for kind in (True, False):
        members = [one for one in parameters if isinstance(one, DTensor) == kind]
        if members or not (kind or parameters):
            yield group | {"params": members}


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to `max_norm` where they are longer together; return how long they were."""
    listed = list(parameters)
    if not any(isinstance(parameter, DTensor) for parameter in listed):
        return torch.nn.utils.clip_grad_norm_(listed, max_norm)
    gradients = [parameter.grad for parameter in listed if parameter.grad is not None]
    shares = [get_local(gradient) for gradient in gradients if isinstance(gradient, DTensor)]
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    square = _add_squares(shares, listed[0])
    dist.all_reduce(square)
    norm = (square + _add_squares(whole, listed[0])).sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_
    torch._foreach_mul_([*shares, *whole], factor)
    return norm


def _add_squares(values: list[Tensor], like: Tensor) -> Tensor:
    total = torch.zeros((), device=like.device)
    return total + torch.stack(torch._foreach_norm(values)).square().sum() if values else total
