"""What benchmarks/train.py measures of a step, and its table."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from train_contestants import DEVICE, PADDED_TOKENS, Run, Scale, make_batch

from tuwen.core.progress import Pace


class Row(NamedTuple):
    """One line of the table."""

    name: str
    pairs_per_second: float
    mfu: float
    peak_bytes: int
    wait_share: float


def time_run(run: Run, batches: list[Any]) -> tuple[float, float]:
    """Return the seconds of a run over the batches, and the share of them that it waited for the next batch."""
    pace = Pace()
    wait_for_gpu()
    began = time.perf_counter()
    run(pace.time_batches(iter(batches)))
    wait_for_gpu()
    return time.perf_counter() - began, pace.compute_speeds(1)["data_wait_share"]


def wait_for_gpu() -> None:
    """Wait for what is under way on a GPU."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def count_flops(config: dict[str, Any], tokens: float) -> float:
    """Count a step's matrix products: three times those of the forward pass; recomputing and padding are none."""

    def count_tower(positions: float, width: int, layers: int, mlp: int) -> float:
        return layers * positions * (8 * width**2 + 4 * width * mlp + 4 * positions * width)

    image, text = config["image"], config["text"]
    patches = (image["size_px"] // image["patch_px"]) ** 2
    into = 2 * patches * 3 * image["patch_px"] ** 2 * image["width"]
    out = 2 * config["dim"] * (image["width"] + text["width"])
    vision = count_tower(patches + 1, image["width"], image["layers"], image["mlp"])
    return 3 * (vision + into + out + count_tower(tokens, text["width"], text["layers"], 4 * text["width"]))


def measure_matrix_rate(side: int) -> float:
    """Return the FLOP/s of bf16 products of square matrices, the best of five measurements."""
    left, right = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    left @ right
    best = 0.0
    for _ in range(5):
        wait_for_gpu()
        began = time.perf_counter()
        for _ in range(4):
            left @ right
        wait_for_gpu()
        best = max(best, 8 * side**3 / (time.perf_counter() - began))
    return best


def measure_full_rate(scale: Scale, tiny_run: bool) -> float:
    """Return the pairs/s at an MFU of one, by the matrix rate measured now."""
    rate = measure_matrix_rate(256 if tiny_run else 8192 if DEVICE == "cuda" else 2048)
    print(f"bf16 matrix products: {rate / 1e12:.2f} TFLOP/s")
    tokens = make_batch(scale, 0).mask.sum(1).float().mean().item()
    padded, real = (count_flops(scale.config, length) / 1e12 for length in (PADDED_TOKENS, tokens))
    print(f"a pair: {real:.4f} TFLOP with its {tokens:.1f} tokens, as in MFU; {padded:.4f} with {PADDED_TOKENS}")
    return rate / (real * 1e12)


def print_rows(rows: list[Row]) -> None:
    """Print the table."""
    print(f"\n{'':44}{'pairs/s':>10}{'MFU':>8}{'peak, GB':>10}{'data wait':>11}")
    for row in rows:
        speed = f"{row.pairs_per_second:10.1f}{row.mfu:8.2%}"
        print(f"{row.name:44}{speed}{row.peak_bytes / 1e9:10.2f}{row.wait_share:11.2%}", flush=True)


def read_peak_bytes() -> int:
    """Return the most memory that this process held, in bytes."""
    # not getrusage: a child begins with its parent's peak there
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
