"""A training step against public scripts, in one run: pairs/s, MFU, peak memory, share of waiting for data.

    .venv/bin/python benchmarks/train.py cpu      # a small model: seven paired rounds
    .venv/bin/python benchmarks/train.py gpu      # ViT-L/14 + RoBERTa-base; runs on a bare GPU machine
    .venv/bin/python benchmarks/train.py switches # what each setting of `fit` costs a step of `cpu`
    .venv/bin/python benchmarks/train.py input    # stored views from shards: pairs/s of 0, 2 and 4 workers
    .venv/bin/python benchmarks/train.py shards   # the step of `cpu` or `gpu` fed from stored views
    … --tiny                                      # at shapes of seconds: shows that it works

Run it alone on the machine. A bare machine has torch, transformers, numpy, pillow; set
PYTHONPATH to the repository there.
All contestants get the same tensors: pixels, and captions padded to 52 tokens, as cn_clip pads them.
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
    batch_of,
    checkpointed,
    hugging_face,
    large,
    open_clip_step,
    ours,
    small,
    tiny,
)
from train_input import from_shards, input_rate
from train_measure import Row, peak_of_process, rate_of, show, timed


def peak_of(name: str, tiny_run: bool) -> int:
    """Peak memory of a process of its own that takes two steps."""
    if tiny_run:
        return peak_of_process()
    command = [sys.executable, __file__, "cpu", "--memory-of", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def cpu(scale: Scale, tiny_run: bool) -> None:
    """Rounds of all contestants in turn, each beginning with another one: the medians of the paired ratios."""
    at_full = rate_of(scale, tiny_run)
    runs = {name: contestant(scale) for name, contestant in CONTESTANTS.items()}
    batches = [batch_of(scale, seed) for seed in range(scale.steps)]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    waits: dict[str, float] = {}
    for run in runs.values():
        timed(run, batches[:2])  # warm
    names = list(runs)
    for number in range(scale.rounds):
        for name in names[number % 3 :] + names[: number % 3]:
            took, waits[name] = timed(runs[name], batches)
            seconds[name].append(took)
    rows = []
    for name in names:
        rate = scale.batch_size * scale.steps / statistics.median(seconds[name])
        rows.append(Row(name, rate, rate / at_full, peak_of(name, tiny_run), waits[name]))
    show(rows)
    for name in names[1:]:
        ratios = sorted(peer / own for peer, own in zip(seconds[name], seconds["tuwen"], strict=True))
        print(f"tuwen / {name}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def gpu(scale: Scale, tiny_run: bool) -> None:
    """Every way to take the step that fits into memory, ours and the peers', then the two figures of memory."""
    at_full = rate_of(scale, tiny_run)
    quarter = scale.batch_size // 4
    ways: dict[str, Callable[[], Run]] = {
        "tuwen": lambda: ours(scale),
        "tuwen, compiled": lambda: ours(scale, compile=True),
        "tuwen, checkpointing": lambda: ours(scale, gradient_checkpointing=True),
        "tuwen, compiled, checkpointing": lambda: ours(scale, compile=True, gradient_checkpointing=True),
        f"tuwen, GradCache in {quarter}s": lambda: ours(scale, chunk=quarter),
        f"tuwen, compiled, GradCache in {quarter}s": lambda: ours(scale, compile=True, chunk=quarter),
        "Hugging Face": lambda: hugging_face(scale),
        "Hugging Face, checkpointing": lambda: checkpointed(scale),
        "open_clip_train": lambda: open_clip_step(scale),
    }
    if tiny_run:
        ways = {name: make for name, make in ways.items() if "compiled" not in name}  # that takes a minute
    rows = [row for name, make in ways.items() if (row := measured(name, make, scale, at_full))]
    own = max((row.pairs_per_second for row in rows if row.name.startswith("tuwen")), default=0.0)
    big = scale._replace(batch_size=8 * scale.batch_size, steps=1, rounds=1)
    few = scale._replace(batch_size=max(1, scale.batch_size // 8))
    for name, made, size in (
        (f"tuwen, GradCache in {quarter}s", lambda: ours(big, chunk=quarter), big),
        ("tuwen, checkpointing", lambda: ours(few, gradient_checkpointing=True), few),
    ):
        if row := measured(f"{name}, batch {size.batch_size}", made, size, at_full):
            rows.append(row)
    show(rows)
    for row in rows:
        if not row.name.startswith("tuwen"):
            print(f"the fastest of tuwen / {row.name}: {own / row.pairs_per_second:.2f}")
    if own:
        print(
            f"the paper's fine-tuning, {PAPER_PAIRS:,} pairs, without the input: {PAPER_PAIRS / own / 60:.0f} min"
        )


def measured(name: str, make: Callable[[], Run], scale: Scale, at_full: float) -> Row | None:
    """The best round of one contestant; None, and a word why, where it does not run here."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        run, batches = make(), [batch_of(scale, seed) for seed in range(min(scale.steps, 2))]
        batches = (batches * scale.steps)[: scale.steps]
        timed(run, batches[:1] * 2)
        found = min(timed(run, batches) for _ in range(scale.rounds))
    except ImportError as error:
        if name != "open_clip_train":
            raise
        print(f"{name}: not here ({error})")
        return None
    except torch.cuda.OutOfMemoryError:
        print(f"{name}: more memory than this card has")
        return None
    rate = scale.batch_size * scale.steps / found[0]
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else peak_of_process()
    row = Row(name, rate, rate / at_full, peak, found[1])
    show([row])
    return row


def switches(scale: Scale, tiny_run: bool) -> None:
    """A step with one setting changed, all in turn: medians, in ms and of the step as it is."""
    changes: dict[str, dict[str, Any]] = {
        "as it is": {},
        f"chunk: {scale.batch_size // 4}": {"chunk": scale.batch_size // 4},
        "gradient_checkpointing: true": {"gradient_checkpointing": True},
        "ema: 0.999": {"ema": 0.999},
        "freeze: text": {"freeze": "text"},
        "freeze: image": {"freeze": "image"},
        "compile: true": {"compile": True},
    }
    if tiny_run:
        del changes["compile: true"]  # that takes a minute
    runs = {name: ours(scale, **change) for name, change in changes.items()}
    batches = [batch_of(scale, 0)]
    for run in runs.values():
        timed(run, batches * 2)  # warm
    rounds = [{name: timed(run, batches)[0] for name, run in runs.items()} for _ in range(2 * scale.rounds)]
    for name in runs:
        seconds = statistics.median(one[name] for one in rounds)
        share = statistics.median(one[name] / one["as it is"] for one in rounds)
        print(f"{name:30}{1000 * seconds:8.1f} ms{share:8.2f}")


PARTS = {"cpu": cpu, "gpu": gpu, "switches": switches, "input": input_rate, "shards": from_shards}


def main() -> None:
    """The parts asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--memory-of", choices=CONTESTANTS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.manual_seed(0)
    if asked.memory_of:
        scale = small()._replace(steps=2)
        CONTESTANTS[asked.memory_of](scale)(batch_of(scale, seed) for seed in range(2))
        print(peak_of_process())
        return
    for part in asked.parts:
        scale = (
            tiny() if asked.tiny else large() if part == "gpu" or (part != "cpu" and DEVICE == "cuda") else small()
        )
        said = f"batch {scale.batch_size}, bf16, torch {torch.__version__}"
        print(f"\n{part}: {DEVICE}, {torch.get_num_threads()} threads, {said}", flush=True)
        PARTS[part](scale, asked.tiny)


if __name__ == "__main__":
    main()
