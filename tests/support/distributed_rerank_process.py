"""What each process computes in tests/unit/reranking/test_objective.py.

torchrun … -m tests.support.distributed_rerank_process OUT
"""

import sys
from pathlib import Path

import torch

from tests.support.distributed_process import take_share
from tests.support.reranking import (
    ALL,
    TGD,
    compute_gradients,
    make_batch,
    make_joint,
    make_parts,
    make_settings,
    make_trained,
)
from tuwen.core.params import Rerank
from tuwen.training import distributed
from tuwen.training.loader import Batch

CASES = {
    "matching": make_settings(),
    "two negatives": make_settings(negatives=2, class_weights=[1.0, 1.0]),
    "all objectives": make_settings(ALL),
    "one stream": make_settings({"mlm": 0.5}, fusion="text_image"),
    "compressed": make_settings({"recovery": 1.0}, fusion="joint", image_tokens={"count": 3, "width": 64}),
    "trained towers": make_trained({"mlm": 0.5}),
    "trained, all objectives": make_trained(ALL, tgd=TGD),
    "trained, one stream": make_trained({"recovery": 1.0}, fusion="joint", image_tokens={"count": 3, "width": 64}),
}


def make_share() -> Batch:
    """Return this process's rows, padded no further than its own texts, as loader.py does."""
    batch = take_share(make_batch(1))
    longest = int(batch.mask.sum(1).max())
    return batch._replace(ids=batch.ids[:, :longest], mask=batch.mask[:, :longest])


def describe(settings: Rerank) -> dict[str, float]:
    """Return the record of an epoch of two steps."""
    _, cross, objective = make_parts(settings)
    for done in range(2):
        objective.compute_gradients(cross, make_share(), done)
    return objective.describe_epoch(cross)


def take_steps(settings: Rerank) -> list[float]:
    """Return the losses of three plain steps of all parts; the queue is filled by the first."""
    model, objective = make_joint(settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    return [objective.take_step(model, [optimizer], make_share(), 1.0, done) for done in range(3)]


def compute_results() -> dict[str, object]:
    """Return all that is compared."""
    results: dict[str, object] = {name: compute_gradients(one, make_share(), 3) for name, one in CASES.items()}
    return results | {
        "record": describe(CASES["all objectives"]),
        "steps": take_steps(CASES["trained, all objectives"]),
    }


def main() -> None:
    with distributed.join_group():
        torch.save(compute_results(), Path(sys.argv[1]) / f"{distributed.get_rank()}.pt")


if __name__ == "__main__":
    main()
