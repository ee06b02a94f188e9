"""What each process computes in tests/unit/training/test_distributed.py.

torchrun … -m tests.support.distributed_process OUT         # all
torchrun … -m tests.support.distributed_process OUT resume  # the end of the training in OUT/checkpoint
"""

import json
import sys
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.module import register_module_forward_hook

from tests.support.training import SIZE_PX, TINY, caption, fit, members, settings, write_shard
from tests.support.weights import stir
from tuwen.core.params import Fit
from tuwen.data.augment.views import Viewer
from tuwen.data.formats.json_file import write_json
from tuwen.data.formats.pairs import Limits
from tuwen.data.formats.text import build_vocabulary, load_tokenizer
from tuwen.model import precision
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training import distributed, optim, step, trainer
from tuwen.training.checkpoint import Checkpoint
from tuwen.training.distillation.features import FeatureGuidance
from tuwen.training.distillation.hidden_words import HiddenWords
from tuwen.training.engines.replicas import GradientEngine
from tuwen.training.loader import Batch, load_batches
from tuwen.training.objective import Contrastive
from tuwen.training.selection import Measured
from tuwen.training.streaming import Banned, StreamedViews
from tuwen.training.streams.skipped import gather_skipped

ROWS, SGD_STEPS = 12, 20
STILL = TINY | {"image": TINY["image"] | {"patch_dropout": 0.0}, "text": TINY["text"] | {"dropout": 0.0}}
LAYERS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
WORDS = LAYERS | {"vocab_size": 24, "max_position_embeddings": 8, "projection_size": 32}
SIGLIP: dict[str, Any] = {  # a library's towers, and a sigmoid with its bias
    "dim": 32,
    "image": {
        "kind": "transformers",
        "size_px": 16,
        "library": {"model_type": "siglip", "vision_config": LAYERS | {"image_size": 16, "patch_size": 8}},
    },
    "text": {"kind": "transformers", "width": 32, "library": {"model_type": "siglip", "text_config": WORDS}},
    "vocabulary": 24,
    "sigmoid": True,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "cached": {"chunk": 4},
    "negatives": {"siblings": "negatives"},
    "nested": {"matryoshka": [16, 8]},
    "text frozen": {"freeze": "text"},
    "image frozen, cached": {"freeze": "image", "chunk": 5},
    "checkpointed": {"gradient_checkpointing": True},
    "shares": {"shard": "full", "muon_lr": None},
    "shares, cached": {"shard": "full", "muon_lr": None, "chunk": 4, "matryoshka": [16]},
    "shares, text frozen": {"shard": "full", "muon_lr": None, "freeze": "text"},
    "shares, image frozen, checkpointed": {
        **{"shard": "full", "muon_lr": None, "freeze": "image", "gradient_checkpointing": True},
    },
    "siglip": {},
    "siglip, shares": {"shard": "full", "muon_lr": None},
}
HALF_CASES = {name: CASES[name] | {"precision": "bf16"} for name in ("plain", "shares")}
DESCENTS = ("plain", "cached", "shares")
SHARED = {"shard": "full", "muon_lr": None, "ema": 0.9, "epochs": 2, "batch_size": ROWS, "warmup_steps": 0}
SHARED |= {"layer_decay": 0.5, "tower_lr": 1e-3}
MASKED = {"masked": {}, "masked, cached": {"chunk": 4}}
DISTIL = {"momentum": 0.5, "alpha": 0.5, "queue": 20, "half_life": 10}
GUIDED: dict[str, Any] = DISTIL | {"fgd": 2.0, "hidden_share": 0.4}
GUIDED_CASES: dict[str, dict[str, Any]] = {
    "guided": {},
    "guided, cached": {"chunk": 4, "matryoshka": [16]},
    "guided, image frozen": {"freeze": "image"},
}
WORDS_HIDDEN = HiddenWords(mask=4, special=(0, 1, 2, 3, 4))
Gradients = dict[str, torch.Tensor]


def make_global_batch(seed: int) -> Batch:
    """Return twelve pairs; rows 1, 5 and 9 are of one image and rows 0 and 11 share a caption: in both halves."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(ROWS, 3, 16, 16, generator=generator)
    ids = torch.randint(5, 24, (ROWS, 8), generator=generator)
    mask = (torch.arange(8) < 3 + torch.arange(ROWS)[:, None] % 6).long()
    positive_id, caption_id = torch.arange(ROWS), torch.arange(ROWS)
    positive_id[[1, 5, 9]] = 100
    caption_id[[0, 11]] = 100
    return Batch(pixels, ids * mask, mask, positive_id, caption_id, tuple(map(str, range(ROWS))))


def take_share(batch: Batch) -> Batch:
    """Return the rows of this process."""
    rows = ROWS // distributed.count_ranks()
    part = slice(distributed.get_rank() * rows, (distributed.get_rank() + 1) * rows)
    return Batch(*(column[part] for column in batch))


def make_prepared(settings: Fit, config: dict[str, Any] = STILL) -> tuple[DualEncoder, GradientEngine]:
    torch.manual_seed(7)
    model = DualEncoder(config)
    if config is SIGLIP:  # a library's layers are built without a draw
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)
        stir(model)
    return model, step.prepare_model(model, settings)


def compute_gradients(settings: Fit, config: dict[str, Any]) -> tuple[float, Gradients]:
    """Return the loss, and the gradient of every parameter that is trained."""
    model, engine = make_prepared(settings, config)
    batch = take_share(make_global_batch(1))
    if config is SIGLIP:  # it reads texts of one length
        batch = batch._replace(mask=torch.ones_like(batch.mask))
    loss = step.compute_gradients(model, batch, settings, engine=engine)
    return loss.item(), {name: join(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def compute_half_gradients(settings: Fit) -> tuple[Gradients, set[torch.dtype]]:
    """Return gradients in bf16, on machines without its units too, and the types of weights in layers."""
    types: set[torch.dtype] = set()

    def look(layer: nn.Module, *_: object) -> None:
        if isinstance(layer, nn.Linear):
            types.add(layer.weight.dtype)

    hook = register_module_forward_hook(look)
    with mock.patch.object(precision, "has_bf16", return_value=True):
        _, gradients = compute_gradients(settings, STILL)
    hook.remove()
    return gradients, types


def join(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole of a tensor."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def descend(settings: Fit) -> Gradients:
    """Return the weights after twenty plain steps down the gradient: AdamW would hide a wrong factor."""
    model, engine = make_prepared(settings)
    descent = torch.optim.SGD(model.parameters(), lr=0.05)
    for number in range(SGD_STEPS):
        step.compute_gradients(model, take_share(make_global_batch(number)), settings, engine=engine)
        descent.step()
        descent.zero_grad()
    return {name: join(value) for name, value in model.state_dict().items()}


def take_steps(settings: Fit) -> Iterator[float]:
    """Yield the losses of three steps as the training loop takes them."""
    model, engine = make_prepared(settings)
    optimizers = optim.make_optimizers(model, settings)
    for number in range(3):
        yield step.step(model, optimizers, take_share(make_global_batch(number)), 1.0, settings, engine)


def make_guided(settings: Fit) -> tuple[DualEncoder, Contrastive]:
    """Return a model and its objective, of which FgD is a part where it has a weight."""
    torch.manual_seed(7)
    distil = settings.distil
    features = FeatureGuidance(distil, WORDS_HIDDEN, 0) if distil and distil.fgd else None
    model, objective = DualEncoder(STILL), Contrastive(settings, features)
    objective.prepare(model, 4)
    return model, objective


def compute_guided_gradients(settings: Fit) -> tuple[float, Gradients]:
    """Return the loss and the gradients of a step with a teacher and a queue, and the record's mean with them."""
    model, objective = make_guided(settings)
    assert objective._guidance
    assert objective._features
    batch = take_share(make_global_batch(1))
    objective._guidance.put(objective._teach(take_share(make_global_batch(2))))
    compare = partial(objective._compare, model, objective._teach(batch), 3)
    shown = objective._features.hide(batch, 12, 3)
    loss = step.compute_gradients(model, shown, settings, compare, objective._engine)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), gradients | {"the record's fgd": torch.tensor(objective.describe_epoch(model)["fgd"])}


def learn(settings: Fit) -> Gradients:
    """Return the weights after three steps that ask another model too: a teacher, or the one at the start."""
    model, objective = make_guided(settings)
    descent = torch.optim.SGD(model.parameters(), lr=0.05)
    descent.param_groups[0]["initial_lr"] = 0.05
    for number in range(3):
        objective.take_step(model, [descent], take_share(make_global_batch(number)), 1.0, number)
    return model.state_dict()


def train(folder: Path, until: int | None = None, **changes: Any) -> tuple[Gradients, Gradients, list[dict]]:
    """Return weights, their average and the records of a training of two epochs, which resumes in `folder`."""
    torch.manual_seed(7)
    model = DualEncoder(STILL)
    training = trainer.train(
        model,
        lambda epoch, first: (take_share(make_global_batch(3 * epoch + n)) for n in range(first, 3)),
        3,
        fit(**SHARED | changes),
        seed=0,
        checkpoint=folder,
        evaluate=lambda model: Measured(
            {"valid_sum": sum(p.sum().item() for p in model.parameters())}, np.zeros(0)
        ),
        log=lambda record, epoch: None,
        until=until,
    )
    assert training.ema is not None
    return model.state_dict(), training.ema.weights, training.records


def compute_results() -> dict[str, object]:
    """Return all that is compared."""
    results: dict[str, object] = {
        name: compute_gradients(fit(batch_size=ROWS, **changes), SIGLIP if "siglip" in name else STILL)
        for name, changes in CASES.items()
    }
    results |= {
        f"bf16, {name}": compute_half_gradients(fit(batch_size=ROWS, **changes))
        for name, changes in HALF_CASES.items()
    }
    results |= {
        name: compute_guided_gradients(fit(batch_size=ROWS, distil=GUIDED, **changes))
        for name, changes in GUIDED_CASES.items()
    }
    results |= {f"20 steps, {name}": descend(fit(batch_size=ROWS, **CASES[name])) for name in DESCENTS}
    results["distilled"] = learn(fit(batch_size=ROWS, distil=DISTIL))
    results["distilled, guided"] = learn(fit(batch_size=ROWS, distil=GUIDED))
    for name, changes in MASKED.items():
        results[name] = learn(fit(batch_size=ROWS, siblings="masked", mask_margin=0.1, **changes))
    return results | {"losses": list(take_steps(fit(batch_size=ROWS)))}


def write_together(folder: Path) -> bool:
    """Write a folder with the others, of which the second one cannot make it."""
    (folder / "file").touch()
    own = Checkpoint(folder / "file/kept" if distributed.get_rank() == 1 else folder / "kept")
    return own.write_together("shares", lambda part: distributed.broadcast_first(None))


def write_far(folder: Path) -> None:
    """Write a shard of twelve pairs, of which two have a cut picture and one none, and a vocabulary."""
    whole = dict(members(range(12)))
    cut = {f"{number}.png": whole[f"{number}.png"][:-60] for number in (2, 8)}
    row = write_shard(folder / "far.tar", [*(whole | cut).items(), ("x.txt", "没有图片".encode())], 12)
    write_json(folder / "far.json", row)
    (folder / "vocab.txt").write_text("\n".join(build_vocabulary(map(caption, range(12)))) + "\n", "utf-8")


def skip(folder: Path, apart: bool) -> dict[str, float]:
    """Return what all processes together could not show of an epoch of the shard."""
    viewer, limits = Viewer(settings().baseline.policy, SIZE_PX, 0), Limits(200, 1_000_000, 8)
    views = StreamedViews(
        [json.loads((folder / "far.json").read_text())], viewer, limits, weight=1.0, banned=Banned()
    )
    place = {"rank": distributed.get_rank(), "ranks": distributed.count_ranks(), "seed": 0, "epoch": 1}
    tokenizer = load_tokenizer(folder / "vocab.txt")
    deque(load_batches(views, tokenizer, max_tokens=24, batch_size=ROWS, apart=apart, **place), maxlen=0)
    return gather_skipped([views])


def main() -> None:
    out = Path(sys.argv[1])
    with distributed.join_group():
        if sys.argv[2:] == ["resume"]:
            torch.save(train(out / "checkpoint"), out / f"resumed-{distributed.get_rank()}.pt")
            return
        results = compute_results()
        results |= {
            "half trained": train(out / "checkpoint", until=1),
            "trained": train(out / "checkpoint-2"),
            "begun by one": train(out / "checkpoint-of-one"),
            "skipped": [skip(out, apart) for apart in (False, True)],
            "written": write_together(out),
            "gathered": distributed.gather_objects(distributed.get_rank()),
            "from first": distributed.broadcast_first(distributed.get_rank()),
            "flags": distributed.combine_flags([distributed.get_rank() == 1, False]),
            "mean": distributed.average_over_ranks(torch.tensor(float(distributed.get_rank()))).item(),
        }
        torch.save(results, out / f"{distributed.get_rank()}.pt")


if __name__ == "__main__":
    main()
