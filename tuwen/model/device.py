"""What the machine computes well."""

import torch


def has_bf16(where: str) -> bool:
    """Whether the hardware computes in bf16; emulated, it takes twice the time of fp32 (docs/log.md)."""
    if where == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    units = torch.cpu.get_capabilities()
    return any(units.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))
