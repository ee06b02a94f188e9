"""A model that one process trains, or several with a copy each, whose gradients torch's DDP averages.

DDP sends a bucket of gradients as soon as they are whole, while the backward pass goes on below.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tuwen.training import distributed

Passed = TypeVar("Passed")


class GradientEngine(Protocol):
    """Runs a model's passes; after the backward pass of what `run` returned all processes have the same gradients.

    The loss is a mean over rows and the shares are equal, so the mean over processes is the gradient of the batch.
    """

    def run(self, compute: Callable[[], Passed]) -> Passed:
        """Return the tensors that `compute`, a forward pass by any methods of the model, returns."""

    def hold(self) -> AbstractContextManager[None]:
        """Inside the block gradients are only added up: more backward passes follow before the step."""

    def finish_gradients(self) -> None:
        """Wait until every gradient is that of the batch; called once after the last backward pass of a step."""


class Alone:
    """The engine of one process."""

    def run(self, compute: Callable[[], Passed]) -> Passed:
        """Return what `compute` returns."""
        return compute()

    def hold(self) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def finish_gradients(self) -> None:
        """Do nothing."""


class Replicas:
    """The engine of several processes with a copy of the model each."""

    def __init__(self, model: nn.Module) -> None:
        self._ddp = DistributedDataParallel(
            Passes(model),
            process_group=dist.new_group(),  # in an order of its own: a loss may have collectives in its backward
            find_unused_parameters=True,  # of a cached step's last pass, and of objectives without a weight
            gradient_as_bucket_view=True,
            forward_sync_buffers=False,  # constants, or those of SyncBatchNorm, which are equal
        )

    def run(self, compute: Callable[[], Passed]) -> Passed:
        """Return what `compute` returns; the backward pass of that averages the gradients on its way."""
        result: Passed = self._ddp(compute)
        return result

    def hold(self) -> AbstractContextManager[None]:
        """Add gradients up inside the block, in this process alone."""
        held: AbstractContextManager[None] = self._ddp.no_sync()
        return held

    def finish_gradients(self) -> None:
        """Do nothing: the backward pass has waited."""


class Passes(nn.Module):
    """A model whose forward pass is any function of it, as DDP and FSDP hook into `forward` alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Any]) -> Any:
        """Return what `compute` returns."""
        return compute()


def make_replicas(model: nn.Module) -> GradientEngine:
    """Return the engine of `model`, which lies on its device and whose frozen parameters want no gradient."""
    return Alone() if distributed.count_ranks() == 1 else Replicas(model)
