"""Two processes of one core each, joined by a link of 1 Gbit/s: what sending gradients costs a step.

Run as root on Linux: .venv/bin/python benchmarks/link.py [--rows 8] [--rounds 3] [--rate 1gbit]

The link is a pair of virtual devices between two network namespaces, each slowed down by `tc`. The model is
ViT-B/16 at 224 px with RoBERTa-base in bf16: 188M parameters, 0.75 GB of gradients a step. Prints the slower
process's seconds, medians over rounds in which the ways take turns: alone (features are sent, and no gradient),
averaging (gradients, and no step), after (they are sent once the backward pass is over, as tuwen did before DDP),
during (DDP).
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from tuwen.model.architectures import make_chinese_clip_config
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training import distributed, step
from tuwen.training.engines.replicas import Alone, GradientEngine
from tuwen.training.loader import Batch

TOKENS, BUCKET_BYTES = 24, 64 << 20
NAMES = ("tuwen-link-0", "tuwen-link-1")  # of the namespaces
ADDRESSES = ("10.77.77.1", "10.77.77.2")


class AfterBackward(Alone):
    """Averages gradients, 64 MB at a time, once all of them are there."""

    def __init__(self, model: DualEncoder) -> None:
        self._parameters = list(model.parameters())

    def finish_gradients(self) -> None:
        """Average them."""
        gradients, bucket = [p.grad for p in self._parameters if p.grad is not None], list[torch.Tensor]()
        for number, gradient in enumerate(gradients, 1):
            bucket.append(gradient)
            if number == len(gradients) or sum(one.nbytes for one in bucket) > BUCKET_BYTES:
                flat = torch.cat([one.flatten() for one in bucket])
                dist.all_reduce(flat)
                flat /= distributed.count_ranks()
                parts = torch.split(flat, [one.numel() for one in bucket])
                torch._foreach_copy_(bucket, [part.view_as(one) for part, one in zip(parts, bucket, strict=True)])
                bucket = []


def make_batch(rows: int) -> Batch:
    """Return random pairs of this process."""
    generator = torch.Generator().manual_seed(distributed.get_rank())
    ids = torch.randint(1000, 20_000, (rows, TOKENS), generator=generator)
    own = torch.arange(rows) + rows * distributed.get_rank()
    return Batch(torch.randn(rows, 3, 224, 224, generator=generator), ids, torch.ones_like(ids), own, own)


def measure(rows: int, rounds: int) -> None:
    """Take the rounds in one of the two processes; the first prints."""
    torch.set_num_threads(1)
    plain = {
        "deterministic": True,
        "chunk": None,
        "freeze": "none",
        "siblings": "positives",
        "compile": False,
        "shard": "none",
    }
    plain |= {"matryoshka": []}
    settings: Any = SimpleNamespace(
        batch_size=rows * distributed.count_ranks(), precision="bf16", gradient_checkpointing=False, **plain
    )
    torch.manual_seed(0)
    model = DualEncoder(make_chinese_clip_config("ViT-B-16", TOKENS))
    during = step.prepare_model(model, settings)
    after, batch = AfterBackward(model), make_batch(rows)

    def take_step(engine: GradientEngine) -> None:
        model.zero_grad()
        step.compute_gradients(model, batch, settings, engine=engine)

    ways: dict[str, Callable[[], None]] = {
        "alone": lambda: take_step(Alone()),
        "averaging": after.finish_gradients,
        "after": lambda: take_step(after),
        "during": lambda: take_step(during),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            dist.barrier()
            start = time.perf_counter()
            way()
            if number:  # the first round warms up
                seconds[name].append(max(distributed.gather_objects(time.perf_counter() - start)))
    if distributed.is_first():
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        for name, median in medians.items():
            print(f"{name}: {median:.2f} s {[round(value, 2) for value in seconds[name]]}")
        print(f"after / during: {medians['after'] / medians['during']:.2f}")
        hidden = max(medians["alone"], medians["averaging"])
        print(f"at the most, were all of the averaging hidden: {medians['after'] / hidden:.2f}")


def run(*command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True)


def join_namespaces(rate: str) -> None:
    """Make the two namespaces and the link between them."""
    for name in NAMES:
        run("ip", "netns", "add", name)
    run(
        "ip", "link", "add", "link0", "netns", NAMES[0], "type", "veth", "peer", "name", "link1", "netns", NAMES[1]
    )
    for number, (name, address) in enumerate(zip(NAMES, ADDRESSES, strict=True)):
        run("ip", "-n", name, "address", "add", f"{address}/24", "dev", f"link{number}")
        for device in ("lo", f"link{number}"):
            run("ip", "-n", name, "link", "set", device, "up")
        slow = ("root", "tbf", "rate", rate, "burst", "1mb", "latency", "50ms")
        run("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", f"link{number}", *slow)


def start_process(number: int, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start one of the two processes in its namespace, on its core."""
    environment = os.environ | {"RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_PORT": "29511"}
    environment |= {
        "MASTER_ADDR": ADDRESSES[0],
        "GLOO_SOCKET_IFNAME": f"link{number}",
        "TORCHELASTIC_RUN_ID": "link",
    }
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = ["ip", "netns", "exec", NAMES[number], "taskset", "-c", str(number)]
    return subprocess.Popen([*command, sys.executable, __file__, *arguments], env=environment)


def main() -> None:
    """Be the parent of both processes, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8, help="pairs of each process in a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", default="1gbit")
    options = parser.parse_args()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        with distributed.join_group():
            measure(options.rows, options.rounds)
        return
    try:
        join_namespaces(options.rate)
        processes = [start_process(number, sys.argv[1:]) for number in range(2)]
        sys.exit(max(process.wait() for process in processes))
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "delete", name], check=False)


if __name__ == "__main__":
    main()
