"""Where to compute, and whether that device computes fast in bf16. Needs torch alone."""

import functools
import os

import torch

from tuwen.core.cores import count_cores


def choose_device() -> str:
    """Return "cuda" where there is a GPU, else "cpu". It decides where a model computes, never what.

    What computes with a model asks this first; from then on torch has no more threads than this process has cores.
    """
    _bound_threads()
    return "cuda" if torch.cuda.is_available() else "cpu"


@functools.cache  # once: who sets a number of threads later means it
def _bound_threads() -> None:
    """Take threads away where a container's quota is less: torch does not see it, and they would be throttled."""
    cores = count_cores()
    if cores < torch.get_num_threads():  # else left alone: the call by itself changes how MKL chooses
        torch.set_num_threads(cores)


def has_bf16(device: str) -> bool:
    """Return whether `device`, "cuda" or "cpu", has bf16 units.

    Emulated bf16 takes twice the time of fp32 (docs/log.md).
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    units = torch.cpu.get_capabilities()
    return any(units.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def count_processes() -> int:
    """Return how many processes TUWEN_GPUS asks for, as far as each has a GPU of this machine; at least 1."""
    asked = os.environ.get("TUWEN_GPUS", "1")
    return max(1, min(int(asked) if asked.isdecimal() else 1, torch.cuda.device_count()))
