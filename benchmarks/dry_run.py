"""A dry run of `pretrain-200m`: the shards' list is made up, nothing is read, and a step learns nothing.

    .venv/bin/python benchmarks/dry_run.py [--pairs 200000000] [--ranks 64] [--rank 5]

Everything else is the training's own: the deal of 52,000 shards to the processes, blocks, shuffling, the planned
views, batches, the loop of tuwen/training/trainer.py, its checkpoints. One of `ranks` processes goes through its
epoch unbroken, then once more, killed by SIGKILL half-way and started again. Printed are the seconds until the
first step, of the epoch and until the first step after the kill, the memory, and the checkpoint; the script fails
unless both ways show the same pairs in the same order.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from train_measure import read_peak_bytes

from tuwen.core.presets import check_preset, compose_preset
from tuwen.data.augment.views import Viewer
from tuwen.data.formats import pairs
from tuwen.training import trainer
from tuwen.training.dataset import ProcessShare
from tuwen.training.no_duplicates import split_into_batches
from tuwen.training.selection import Measured
from tuwen.training.streaming import Banned, StreamedPair, StreamedViews, _ReadBlock

ROOT = Path(__file__).parents[1]
PAIRS_A_SHARD, PAIR_BYTES = 3846, 130_000  # 52,000 shards of 500 MB
CHECKPOINT_SECONDS = "1"
IMAGE = b"not decoded"


def make_list(total: int) -> list[dict[str, Any]]:
    """Return rows of `pairs.SHARDS` for `total` pairs, in shards that differ a little in size."""
    rows, left = [], total
    while left:
        held = min(left, PAIRS_A_SHARD - 64 + len(rows) * 37 % 129)
        name = f"{len(rows):05d}"
        row = {"address": f"/store/{name}.tar", "sha256": name, "size": held * PAIR_BYTES}
        rows.append(row | {"pairs": held, "caption_key": "caption", "source": "web"})
        left -= held
    return rows


class UnreadViews(StreamedViews):
    """Views of shards that are taken for read: every pair is there, with a caption."""

    def _read_block(self, block: Any, reader: Any) -> _ReadBlock:
        read = _ReadBlock([], Counter())
        for span in block:
            for number in range(span.first, span.first + span.pairs):
                name = f"{span.shard['sha256']}/{number}"
                read.pairs.append(StreamedPair(name, IMAGE, "雨后的街道上停着一辆公交车", "free", name, span.lap))
        return read


class Unlearned:
    """A step that remembers which pairs it was given, as a chain of digests, and learns nothing."""

    group = "baseline.fit"

    def __init__(self, began: float, kill_at: int) -> None:
        self._began, self._kill_at, self._digest = began, kill_at, ""
        self.first_step_seconds = 0.0

    def prepare(self, model: Any, steps_per_epoch: int) -> None:
        """Prepare nothing."""

    def take_step(self, model: Any, optimizers: Any, batch: Any, factor: float, done: int) -> float:
        """Add the batch to the digest."""
        self.first_step_seconds = self.first_step_seconds or time.time() - self._began
        names = "".join(spec.pair_id for spec in batch)
        self._digest = hashlib.blake2b((self._digest + names).encode(), digest_size=16).hexdigest()
        if done == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.0

    def describe_epoch(self, model: Any) -> dict[str, float]:
        """Return nothing."""
        return {}

    def get_state(self) -> Mapping[str, Any]:
        """Return the digest."""
        return {"digest": self._digest}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on with a digest."""
        self._digest = state["digest"]


def train_dry(options: argparse.Namespace, folder: Path) -> None:
    """Be the process: go through the epoch and print what was measured as JSON."""
    params = check_preset(compose_preset("pretrain-200m", ROOT / "presets"))
    fit, share = params.baseline.fit, ProcessShare(options.rank, options.ranks)
    assert fit
    assert params.baseline.policy
    viewer, limits = Viewer(params.baseline.policy, params.image.size_px, 0), pairs.Limits(200, 10**8, 32)
    views = UnreadViews(make_list(options.pairs), viewer, limits, weight=1.0, banned=Banned())
    steps = len(views) // fit.batch_size

    def make_batches(epoch: int, first_step: int) -> Iterator[Any]:
        wanted: dict[str, Any] = {"size": fit.batch_size // share.ranks, "steps": steps, "first_step": first_step}
        return split_into_batches(
            views, False, seed=0, epoch=epoch, apart=False, report=False, share=share, **wanted
        )

    objective = Unlearned(options.began, options.kill_at)
    training = trainer.train(
        torch.nn.Linear(1, 1),
        make_batches,
        steps,
        fit,
        seed=0,
        checkpoint=folder,
        evaluate=lambda model: Measured({}, torch.zeros(0).numpy()),
        log=lambda record, epoch: None,
        objective=objective,
        streams=[views],
    )
    figures = {"steps": training.done, "first": objective.first_step_seconds, "digest": objective.get_state()}
    figures |= {"seconds": time.time() - options.began, "peak": read_peak_bytes()}
    print(json.dumps(figures | {"checkpoint": (folder / "state.pt").stat().st_size}))


def start(options: argparse.Namespace, folder: Path, kill_at: int = -1) -> dict[str, Any] | None:
    """Run the process; return what it printed, None where it was killed."""
    wanted = {"pairs": options.pairs, "ranks": options.ranks, "rank": options.rank, "kill-at": kill_at}
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in wanted.items())]
    command += [f"--began={time.time()}", f"--folder={folder}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=folder.parent)
    if done.returncode == -signal.SIGKILL and kill_at >= 0:
        return None
    assert done.returncode == 0, done.returncode
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Run both ways and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200_000_000)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--rank", type=int, default=5)
    for name, kind in (("kill-at", int), ("began", float), ("folder", Path)):  # of the process itself
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        return train_dry(options, options.folder)
    os.environ |= {"TUWEN_CHECKPOINT_SECONDS": CHECKPOINT_SECONDS, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        whole = start(options, Path(folder) / "whole")
        assert whole
        assert start(options, Path(folder) / "broken", kill_at=whole["steps"] // 2) is None
        again = start(options, Path(folder) / "broken")
    assert again
    assert again["digest"] == whole["digest"], "other pairs after the kill"
    print(f"{options.pairs:,} pairs, process {options.rank} of {options.ranks}: {whole['steps']} steps")
    print(f"first step after {whole['first']:.1f} s, epoch {whole['seconds']:.0f} s")
    print(f"killed after step {whole['steps'] // 2}; first step {again['first']:.1f} s after the next start")
    peaks = f"{whole['peak'] / 1e6:.0f} MB, resumed {again['peak'] / 1e6:.0f} MB"
    print(f"the same pairs in the same order; peak {peaks}")
    print(f"checkpoint without the model: {again['checkpoint'] / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
