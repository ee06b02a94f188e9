"""One training in several processes, each with its share of every batch: `torchrun`, or TUWEN_GPUS on one machine.

A process alone is a group of one, and every function here returns what it was given.
Shapes: b rows of one process, B rows of all of them in the order of the processes, D dimensions.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tuwen.core.errors import UserError

Value = TypeVar("Value")
PATIENCE = timedelta(hours=2)  # the others wait while the first process measures on valid


def start_processes(module: str) -> None:
    """Become `torchrun -m module` where TUWEN_GPUS is a number of several processes on this machine.

    torchrun's own PET_* variables are left to it: they join several machines (docs/training.md). Raises UserError
    where TUWEN_GPUS is no number, or more than the GPUs here; without any GPU, the processes share the cores.
    """
    number = os.environ.get("TUWEN_GPUS", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return
    if not number.isdecimal() or int(number) < 1:
        raise UserError(f"TUWEN_GPUS must be a number from 1 on, got {number!r}")
    there = torch.cuda.device_count()
    if there and int(number) > there:
        raise UserError(f"TUWEN_GPUS must be at most {there}, the number of GPUs of this machine, got {number}")
    elsewhere = "PET_RDZV_ENDPOINT" in os.environ or "PET_MASTER_ADDR" in os.environ
    if int(number) == 1 and not elsewhere:
        return
    options = [f"--nproc-per-node={number}", *([] if elsewhere else ["--standalone"])]
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", module, *sys.argv[1:]]
    os.execv(sys.executable, command)  # not a child: a signal to this process reaches torchrun


@contextlib.contextmanager
def join_group() -> Iterator[None]:
    """Be one of the processes that torchrun started, if it did, inside the block."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def get_rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count_ranks() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Return whether this process is the one that prints, measures and writes for all."""
    return get_rank() == 0


def gather_rows(rows_bD: Tensor) -> Tensor:
    """Return the rows [b, …] of all processes, [B, …]; a row's gradient flows back to the process that gave it."""
    if count_ranks() == 1:
        return rows_bD
    gathered: Tensor = _Gather.apply(rows_bD)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """The gradient of a row is the sum of its gradients by the losses of all processes."""

    @staticmethod
    def forward(ctx: Any, rows_bD: Tensor) -> Tensor:
        parts = [torch.empty_like(rows_bD) for _ in range(count_ranks())]
        dist.all_gather(parts, rows_bD.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(count_ranks())[get_rank()]


def draw_rows(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return numbers in [0, 1) for the rows of this process [rows, columns], of which each process has as many.

    A row's numbers are the same whichever process has it, if all processes give a generator of one state.
    """
    uniform_BC = torch.rand(rows * count_ranks(), columns, generator=generator)
    return uniform_BC[get_rank() * rows :][:rows]


def average_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of `value` over the processes."""
    if count_ranks() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / count_ranks()


def combine_flags(flags: list[bool]) -> list[bool]:
    """Return, for each flag, whether any process raised it: so all stop after the same step."""
    if count_ranks() == 1:
        return flags
    raised = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]


def gather_objects(value: Value) -> list[Value]:
    """Return the values of all processes, in their order."""
    values: list[Any] = [value] * count_ranks()
    if count_ranks() > 1:
        dist.all_gather_object(values, value)
    return values


def broadcast_first(value: Value) -> Value:
    """Return what the first process has."""
    values = [value]
    if count_ranks() > 1:
        dist.broadcast_object_list(values, 0)
    return values[0]
