"""Weights in shares: gathered to a whole state, and as files that any number of processes can read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tuwen.model.device import choose_device
from tuwen.model.state_dict import State
from tuwen.training import distributed
from tuwen.training.engines.local import is_share


def gather_state(state: State) -> State:
    """Return whole tensors on the CPU in the first process, {} in the others. All processes call this."""
    whole: State = {}
    value: Any
    for name, value in state.items():
        tensor: Tensor = value.full_tensor() if is_share(value) else value
        if distributed.is_first():
            whole[name] = tensor.detach().cpu()
    return whole


@contextmanager
def use_state(state: State, whole: nn.Module) -> Iterator[None]:
    """Give the first process's whole model this state, on its device, in the block. All processes call this."""
    gathered = gather_state(state)
    if distributed.is_first():
        whole.load_state_dict(gathered)
        whole.to(choose_device())
    yield
    whole.to("cpu")


def save_shares(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], average: State | None
) -> None:
    """Write each process's shares into `folder`; of one process alone, all. All processes call this.

    Raises what torch's writer raises.
    """
    from torch.distributed.checkpoint.state_dict_saver import save

    shares = _list_shares(model, optimizers, average)
    save(shares, checkpoint_id=folder, no_dist=not dist.is_initialized())


def load_shares(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], average: State | None
) -> None:
    """Read what any number of processes wrote, in place. All processes call this."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    shares = _list_shares(model, optimizers, average)
    load(shares, checkpoint_id=folder, no_dist=not dist.is_initialized())
    model.load_state_dict(shares["model"])
    options = StateDictOptions(flatten_optimizer_state_dict=True)  # as in _list_shares
    set_optimizer_state_dict(model, optimizers, optim_state_dict=shares["optimizers"], options=options)


def _list_shares(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], average: State | None
) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    # by the parameters' names, not by the groups of an optimizer: another number of processes has other groups
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    moved = get_optimizer_state_dict(model, optimizers, options=options)
    shares = {"model": model.state_dict(), "optimizers": moved}
    return shares | ({"average": average} if average is not None else {})
