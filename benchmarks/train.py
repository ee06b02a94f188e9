"""A training step against public scripts, in one run: pairs/s, MFU, peak memory, share of waiting for data.

    .venv/bin/python benchmarks/train.py cpu      # a small model: seven paired rounds
    .venv/bin/python benchmarks/train.py gpu      # ViT-L/14 + RoBERTa-base; runs on a bare GPU machine
    .venv/bin/python benchmarks/train.py switches # what each setting of `fit` costs a step of `cpu`
    .venv/bin/python benchmarks/train.py input    # stored views from shards: pairs/s of 0, 2 and 4 workers
    .venv/bin/python benchmarks/train.py reading  # what a stored view costs a disk
    .venv/bin/python benchmarks/train.py shards   # the step of `cpu` or `gpu` fed from stored views
    … --tiny                                      # at shapes of seconds: shows that it works

Run it alone on the machine. A bare machine has torch, transformers, numpy, pillow; set
PYTHONPATH to the repository there.
All contestants get the same tensors: pixels, and captions padded to 52 tokens, as cn_clip pads them. Peers called
`trimmed` pad to the longest caption of a batch, and take the kernel of attention that is the fastest on a CPU.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from train_contestants import (
    CONTESTANTS,
    DEVICE,
    PAPER_PAIRS,
    Run,
    Scale,
    make_batch,
    make_checkpointed_run,
    make_hugging_face_run,
    make_large_scale,
    make_open_clip_run,
    make_own_run,
    make_small_scale,
    make_tiny_scale,
)
from train_input import measure_from_shards, measure_input, measure_reading
from train_measure import Row, measure_full_rate, print_rows, read_peak_bytes, time_run


def measure_peak_bytes(name: str, tiny_run: bool) -> int:
    """Return the peak memory of a process of its own that takes two steps."""
    if tiny_run:
        return read_peak_bytes()
    command = [sys.executable, __file__, "cpu", "--memory-of", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def compare_on_cpu(scale: Scale, tiny_run: bool) -> None:
    """Run rounds of all contestants, each beginning with another one; print the medians of the paired ratios."""
    at_full = measure_full_rate(scale, tiny_run)
    runs = {name: contestant(scale) for name, contestant in CONTESTANTS.items()}
    batches = [make_batch(scale, seed) for seed in range(scale.steps)]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    waits: dict[str, float] = {}
    for run in runs.values():
        time_run(run, batches[:2])  # warm
    names = list(runs)
    for number in range(scale.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            took, waits[name] = time_run(runs[name], batches)
            seconds[name].append(took)
    rows = []
    for name in names:
        rate = scale.batch_size * scale.steps / statistics.median(seconds[name])
        rows.append(Row(name, rate, rate / at_full, measure_peak_bytes(name, tiny_run), waits[name]))
    print_rows(rows)
    for name in names[1:]:
        ratios = sorted(peer / own for peer, own in zip(seconds[name], seconds["tuwen"], strict=True))
        print(f"tuwen / {name}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def compare_on_gpu(scale: Scale, tiny_run: bool) -> None:
    """Measure every way to take the step that fits into memory, ours and the peers', and two that save memory."""
    at_full = measure_full_rate(scale, tiny_run)
    quarter = scale.batch_size // 4
    ways: dict[str, Callable[[], Run]] = {
        "tuwen": lambda: make_own_run(scale),
        "tuwen, not deterministic": lambda: make_own_run(scale, deterministic=False),
        "tuwen, compiled": lambda: make_own_run(scale, compile=True),
        "tuwen, checkpointing": lambda: make_own_run(scale, gradient_checkpointing=True),
        "tuwen, compiled, checkpointing": lambda: make_own_run(scale, compile=True, gradient_checkpointing=True),
        f"tuwen, GradCache in {quarter}s": lambda: make_own_run(scale, chunk=quarter),
        f"tuwen, compiled, GradCache in {quarter}s": lambda: make_own_run(scale, compile=True, chunk=quarter),
        "Hugging Face": lambda: make_hugging_face_run(scale),
        "Hugging Face, checkpointing": lambda: make_checkpointed_run(scale),
        "open_clip_train": lambda: make_open_clip_run(scale),
    }
    if tiny_run:
        ways = {name: make for name, make in ways.items() if "compiled" not in name}  # that takes a minute
    rows = [row for name, make in ways.items() if (row := measure_best(name, make, scale, at_full))]
    own = max((row.pairs_per_second for row in rows if row.name.startswith("tuwen")), default=0.0)
    big = scale._replace(batch_size=8 * scale.batch_size, steps=1, rounds=1)
    few = scale._replace(batch_size=max(1, scale.batch_size // 8))
    for name, make, size in (
        (f"tuwen, GradCache in {quarter}s", lambda: make_own_run(big, chunk=quarter), big),
        ("tuwen, checkpointing", lambda: make_own_run(few, gradient_checkpointing=True), few),
    ):
        if row := measure_best(f"{name}, batch {size.batch_size}", make, size, at_full):
            rows.append(row)
    print_rows(rows)
    for row in rows:
        if not row.name.startswith("tuwen"):
            print(f"the fastest of tuwen / {row.name}: {own / row.pairs_per_second:.2f}")
    if own:
        print(
            f"the paper's fine-tuning, {PAPER_PAIRS:,} pairs, without the input: {PAPER_PAIRS / own / 60:.0f} min"
        )


def measure_best(name: str, make: Callable[[], Run], scale: Scale, at_full: float) -> Row | None:
    """Return the best round of one contestant; print why and return None where it does not run here."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        run, batches = make(), [make_batch(scale, seed) for seed in range(min(scale.steps, 2))]
        batches = (batches * scale.steps)[: scale.steps]
        time_run(run, batches[:1] * 2)
        seconds, wait_share = min(time_run(run, batches) for _ in range(scale.rounds))
    except ImportError as error:
        if name != "open_clip_train":
            raise
        print(f"{name}: not here ({error})")
        return None
    except torch.cuda.OutOfMemoryError:
        print(f"{name}: more memory than this card has")
        return None
    rate = scale.batch_size * scale.steps / seconds
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else read_peak_bytes()
    row = Row(name, rate, rate / at_full, peak, wait_share)
    print_rows([row])
    return row


def compare_switches(scale: Scale, tiny_run: bool) -> None:
    """Time a step with one setting changed, all in turn; print medians, in ms and of the step as it is."""
    changes: dict[str, dict[str, Any]] = {
        "as it is": {},
        f"chunk: {scale.batch_size // 4}": {"chunk": scale.batch_size // 4},
        "gradient_checkpointing: true": {"gradient_checkpointing": True},
        "ema: 0.999": {"ema": 0.999},
        "freeze: text": {"freeze": "text"},
        "freeze: image": {"freeze": "image"},
        "compile: true": {"compile": True},
        "deterministic: false": {"deterministic": False},
    }
    if tiny_run:
        del changes["compile: true"]  # that takes a minute
    runs = {name: make_own_run(scale, **change) for name, change in changes.items()}
    batches = [make_batch(scale, 0)]
    for run in runs.values():
        time_run(run, batches * 2)  # warm
    rounds = [{name: time_run(run, batches)[0] for name, run in runs.items()} for _ in range(2 * scale.rounds)]
    for name in runs:
        seconds = statistics.median(one[name] for one in rounds)
        share = statistics.median(one[name] / one["as it is"] for one in rounds)
        print(f"{name:30}{1000 * seconds:8.1f} ms{share:8.2f}")


PARTS = {
    "cpu": compare_on_cpu,
    "gpu": compare_on_gpu,
    "switches": compare_switches,
    "input": measure_input,
    "reading": measure_reading,
    "shards": measure_from_shards,
}


def main() -> None:
    """Run the parts that are named, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--memory-of", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.memory_of:
        scale = make_small_scale()._replace(steps=2)
        CONTESTANTS[options.memory_of](scale)(make_batch(scale, seed) for seed in range(2))
        print(read_peak_bytes())
        return
    for part in options.parts:
        make_scale = (
            make_large_scale if part == "gpu" or (part != "cpu" and DEVICE == "cuda") else make_small_scale
        )
        scale = make_tiny_scale() if options.tiny else make_scale()
        setting = f"batch {scale.batch_size}, bf16, torch {torch.__version__}"
        print(f"\n{part}: {DEVICE}, {torch.get_num_threads()} threads, {setting}", flush=True)
        PARTS[part](scale, options.tiny)


if __name__ == "__main__":
    main()
