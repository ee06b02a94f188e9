"""What a model computes in: bf16 where the machine has units for it, and the fastest kernel of attention.

Needs torch alone.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tuwen.model.device import choose_device, has_bf16


def choose_precision(wanted: str) -> str:
    """Return what this machine computes in for "bf16" or "fp32": the latter where it has no bf16 units."""
    return wanted if has_bf16(choose_device()) else "fp32"


@contextlib.contextmanager
def set_precision(wanted: str) -> Iterator[None]:
    """Compute by autocast in what `choose_precision` says, inside the block."""
    # entered anew for each piece: autocast caches cast weights, and those of a pass without a graph have none
    device = choose_device()
    with torch.autocast(device, torch.bfloat16, enabled=choose_precision(wanted) == "bf16"):
        yield


def choose_inference_precision() -> str:
    """Return "bf16" on a GPU with units for it, else "fp32": on a CPU the bits of vectors are compared."""
    return choose_precision("bf16") if choose_device() == "cuda" else "fp32"


@contextlib.contextmanager
def set_inference_precision() -> Iterator[None]:
    """Compute by autocast in what `choose_inference_precision` says, inside the block."""
    with torch.autocast(choose_device(), torch.bfloat16, enabled=choose_inference_precision() == "bf16"):
        yield


@contextlib.contextmanager
def set_attention(device: str) -> Iterator[None]:
    """Let torch take the kernel of attention that trains fastest on `device`, inside the block."""
    # On CPU the backward pass of the fused attention takes five times the plain one's at these lengths, and the
    # plain one would compute bf16 in fp32, at a fifth of the step (docs/log.md); on a GPU the fused one is right.
    # Around both passes: a checkpointed layer runs in both.
    if device != "cpu":
        yield
        return
    switches: Any = torch.backends.cuda  # named after CUDA, but they hold on a CPU too
    before = switches.fp16_bf16_reduction_math_sdp_allowed()
    switches.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        switches.allow_fp16_bf16_reduction_math_sdp(before)
