"""What a model computes in: half precision where the machine has units for it; the fastest kernel of attention.

Needs torch alone.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tuwen.core.errors import UserError
from tuwen.model.device import choose_device, has_bf16

HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(wanted: str) -> str:
    """Return what this machine computes in for "fp32", "tf32" or "bf16".

    Without bf16 units a GPU computes in "fp16" (T4, V100), and a CPU in "fp32"; "tf32" is for GPUs that have bf16.
    """
    device = choose_device()
    if wanted == "fp32" or (wanted == "tf32" and device == "cpu"):
        return "fp32"
    if has_bf16(device):
        return wanted
    return "fp16" if (wanted, device) == ("bf16", "cuda") else "fp32"


@contextlib.contextmanager
def set_precision(wanted: str) -> Iterator[None]:
    """Compute by autocast in what `choose_precision` says, inside the block."""
    # entered anew for each piece: autocast caches cast weights, and those of a pass without a graph have none
    with _cast_to(choose_precision(wanted)):
        yield


def _cast_to(precision: str) -> torch.autocast:
    half = HALF_TYPES.get(precision)
    return torch.autocast(choose_device(), half or torch.bfloat16, enabled=half is not None)


def set_float32_products(precision: str) -> None:
    """Let a GPU round the factors of float32 products to 10 bits for "tf32", and for nothing else from here on."""
    torch.set_float32_matmul_precision("high" if choose_precision(precision) == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = choose_precision(precision) == "tf32"  # torch's own default is True


@contextlib.contextmanager
def use_full_float32() -> Iterator[None]:
    """Compute float32 products in float32 inside the block, whatever a training or the image of a container set.

    Raises UserError where torch does not let go of another precision.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        if torch.get_float32_matmul_precision() != "highest":
            raise UserError("exact search needs products in float32: unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def choose_inference_precision() -> str:
    """Return "bf16" on a GPU with units for it, else "fp32": on a CPU the bits of vectors are compared.

    Not fp16: in it the towers of some published models overflow.
    """
    return "bf16" if choose_device() == "cuda" and has_bf16("cuda") else "fp32"


@contextlib.contextmanager
def set_inference_precision() -> Iterator[None]:
    """Compute by autocast in what `choose_inference_precision` says, inside the block."""
    with _cast_to(choose_inference_precision()):
        yield


def choose_frozen_precision(wanted: str) -> str:
    """Return what towers that stay as they are compute in under a training in `wanted`: on a GPU as they embed."""
    return choose_inference_precision() if choose_device() == "cuda" else choose_precision(wanted)


@contextlib.contextmanager
def set_frozen_precision(wanted: str) -> Iterator[None]:
    """Compute by autocast in what `choose_frozen_precision` says, inside the block."""
    with _cast_to(choose_frozen_precision(wanted)):
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
