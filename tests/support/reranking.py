"""A small dual encoder, settings of a re-ranker over it, and batches with siblings: for its objectives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.training import FIT
from tuwen.core.params import Rerank
from tuwen.core.params.training import Loop
from tuwen.model.cross_encoder import CrossEncoder, CrossOutput
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.reranker import make_cross_encoder
from tuwen.reranking.joint import JointModel
from tuwen.reranking.lengths import read_by_length
from tuwen.reranking.objective import Matching
from tuwen.reranking.recipe import describe_layers
from tuwen.training import trainer
from tuwen.training.distillation.hidden_words import HiddenWords
from tuwen.training.loader import Batch
from tuwen.training.selection import Measured

ROWS, TOKENS, VOCABULARY = 12, 10, 24
WORDS = HiddenWords(mask=4, special=(0, 1, 2, 3, 4))
DUAL: dict[str, Any] = {
    "dim": 16,
    "image": {
        **{"kind": "vit", "size_px": 16, "patch_px": 4, "width": 64, "layers": 1, "heads": 1, "mlp": 128},
        **{"activation": "quick_gelu", "eps": 1e-5, "patch_dropout": 0.5},
    },
    "text": {"width": 64, "layers": 1, "dropout": 0.1, "max_tokens": 16},
    "vocabulary": VOCABULARY,
}
STILL = DUAL | {  # towers that draw nothing, so that two passes of a training of theirs are alike
    "image": dict(DUAL["image"], patch_dropout=0.0),
    "text": dict(DUAL["text"], dropout=0.0),
}
NONE = {"gcpr": 0.0, "fgr": 1.0, "mlm": 0.0, "mrfr": 0.0, "mrc": 0.0, "mrc_kl": 0.0, "recovery": 0.0, "fgd": 0.0}
ALL = {"fgr": 1.0, "mlm": 0.5, "mrfr": 0.3, "mrc": 0.2, "mrc_kl": 0.1, "recovery": 0.4, "fgd": 0.05}
TGD = {"alpha": 0.4, "queue": 20, "half_life": 10}
LOOP = {name: FIT[name] for name in Loop.model_fields} | {"batch_size": ROWS}
SETTINGS = {
    **{"seed": 0, "towers": "frozen", "fusion": "both", "layers": 1, "width": None, "heads": None, "mlp": None},
    **{"dropout": 0.0, "image_tokens": None, "k": 4, "corpus": 0.0, "negatives": 1, "class_weights": [1.0, 2.0]},
    "hardness": {"first": 1.0, "last": 1.0, "ramp": 0.0},
    **{"objectives": NONE, "hidden_share": 0.3, "clusters": 4, "teacher": None, "tgd": None, "fit": LOOP},
}


def make_settings(objectives: dict[str, float] | None = None, **changes: Any) -> Rerank:
    """Return settings with `objectives` beside FGR alone, and a teacher where one is needed."""
    weights = NONE | (objectives or {})
    teacher = {"momentum": 0.9} if weights["fgd"] or changes.get("tgd") else None
    return Rerank.model_validate(SETTINGS | {"objectives": weights, "teacher": teacher} | changes)


def make_batch(seed: int, rows: int = ROWS) -> Batch:
    """Return pairs; rows 1, 5 and 9 are of one image, and rows 0 and 11 share a caption: in both halves."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(rows, 3, 16, 16, generator=generator)
    ids = torch.randint(5, VOCABULARY, (rows, TOKENS), generator=generator)
    ids[:, 0] = 2
    mask = (torch.arange(TOKENS) < 4 + torch.arange(rows)[:, None] % 6).long()
    positive_id, caption_id = torch.arange(rows), torch.arange(rows)
    if rows == ROWS:
        positive_id[[1, 5, 9]] = 100
        caption_id[[0, 11]] = 100
    return Batch(pixels, ids * mask, mask, positive_id, caption_id, tuple(map(str, range(rows))))


def make_trained(objectives: dict[str, float] | None = None, **changes: Any) -> Rerank:
    """Return settings of towers that are trained, by the contrastive loss and FGR at least."""
    return make_settings({"gcpr": 1.0} | (objectives or {}), towers="trained", **changes)


def make_parts(settings: Rerank, config: dict[str, Any] = DUAL) -> tuple[DualEncoder, CrossEncoder, Matching]:
    """Return a dual encoder, a cross encoder whose cross-attention already says something, and what trains it."""
    torch.manual_seed(7)
    dual = DualEncoder(config)
    cross = make_cross_encoder(dual, describe_layers(dual, settings))
    for parameter in cross.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    objective = Matching(dual, settings, WORDS)
    if settings.towers == "frozen":
        objective.prepare(cross, 3)
    return dual, cross, objective


def make_joint(settings: Rerank) -> tuple[JointModel, Matching]:
    """Return the same parts as the one model that is trained where the towers are, and what trains it."""
    dual, cross, objective = make_parts(settings, STILL)
    model = JointModel(dual, cross)
    objective.prepare(model, 3)
    return model, objective


def train(folder: Path, settings: Rerank, feed: Any = None, log: Any = None) -> tuple[Any, trainer.Training]:
    """Train on one batch, three steps an epoch; return the model, of trained towers the joint one."""
    model: Any
    if settings.towers == "trained":
        model, objective = make_joint(settings)
    else:
        _, model, objective = make_parts(settings)

    def repeat(epoch: int, first_step: int = 0):
        yield from [make_batch(1)] * (3 - first_step)

    training = trainer.train(
        model,
        feed or repeat,
        3,
        settings.fit,
        seed=0,
        checkpoint=folder,
        evaluate=lambda _: Measured({}, np.zeros(0)),
        log=log or (lambda *_: None),
        objective=objective,
    )
    return model, training


def compute_gradients(settings: Rerank, batch: Batch, done: int = 0) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss of a step, and the gradient of every parameter that it trains."""
    model: Any
    if settings.towers == "trained":
        model, objective = make_joint(settings)
    else:
        _, model, objective = make_parts(settings)
    loss = objective.compute_gradients(model, batch, done)
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def find_rows(states: torch.Tensor, among: torch.Tensor) -> list[int]:
    """Return which row of `among` each row of `states` is."""
    equal = (states[:, None] == among[None]).flatten(2).all(2)
    assert equal.any(1).all()
    rows: list[int] = equal.int().argmax(1).tolist()
    return rows


def record_read(model: Any, objective: Matching, batch: Batch, done: int = 0) -> dict[str, torch.Tensor]:
    """Return the pairs that the cross encoder under training reads in a step, not those of its teacher."""
    read: dict[str, torch.Tensor] = {}

    def keep(cross: CrossEncoder, *given: torch.Tensor) -> CrossOutput:
        if cross is getattr(model, "cross", model):
            read.update(zip(("stored", "text", "mask", "image"), given, strict=True))
        return read_by_length(cross, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuwen.reranking.objective.read_by_length", keep)
        objective.compute_terms(model, batch, done)
    return read
