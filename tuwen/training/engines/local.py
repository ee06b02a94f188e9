"""What a step does with weights of which this process keeps the whole, or a share (shards.py).

Nothing of FSDP is imported to ask which: that takes more than a second of each process.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_share(value: Tensor) -> bool:
    """Return whether other processes keep the rest of a tensor: whether it is a DTensor."""
    return hasattr(value, "to_local")


def get_local(value: Tensor) -> Tensor:
    """Return the share of a tensor that this process keeps, the same memory; of a whole tensor itself."""
    share: Any = value
    local: Tensor = share.to_local() if is_share(value) else value
    return local


def split_group(group: dict[str, object], parameters: list[nn.Parameter]) -> Iterator[dict[str, object]]:
    """Yield an optimizer's group, in two where some of its parameters are shares and others whole.

    torch's fused kernels take one kind at once.
    """
    for kind in (True, False):
        members = [one for one in parameters if is_share(one) == kind]
        if members or not (kind or parameters):
            yield group | {"params": members}


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to `max_norm` where they are longer together; return how long they were."""
    listed = list(parameters)
    if not any(map(is_share, listed)):
        return torch.nn.utils.clip_grad_norm_(listed, max_norm)
    gradients = [parameter.grad for parameter in listed if parameter.grad is not None]
    shares = [get_local(gradient) for gradient in gradients if is_share(gradient)]
    whole = [gradient for gradient in gradients if not is_share(gradient)]
    square = _add_squares(shares, listed[0])
    dist.all_reduce(square)
    norm = (square + _add_squares(whole, listed[0])).sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_
    torch._foreach_mul_([*shares, *whole], factor)
    return norm


def _add_squares(values: list[Tensor], like: Tensor) -> Tensor:
    total = torch.zeros((), device=like.device)
    return total + torch.stack(torch._foreach_norm(values)).square().sum() if values else total
