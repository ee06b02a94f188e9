"""Training the projections alone: what moves, by which gradient, and what a killed training goes on with."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests.support.frozen import VOCABULARY, KeyedViews, frozen_fit, make_encoder
from tests.support.training import TINY
from tuwen.core.errors import UserError
from tuwen.core.params import Fit
from tuwen.data.formats.text import make_tokenizer
from tuwen.model import dual_encoder
from tuwen.training import optim, runner, trainer
from tuwen.training.frozen.pooled_views import PooledViews
from tuwen.training.frozen.projections import Projections
from tuwen.training.loss import compute_contrastive_loss
from tuwen.training.selection import Measured

TRAINED = {"image_tower.projection.weight", "text_projection.weight", "log_scale"}


def measure(encoder: dual_encoder.DualEncoder, tokenizer: object) -> Measured:
    return Measured({"valid_t2i_hit_at_5": 0.25, "valid_i2t_hit_at_5": 0.5}, np.full(4, 0.09375))


def run(out: Path, fit: Fit) -> dual_encoder.DualEncoder:
    job = runner.Job(make_encoder(), VOCABULARY, KeyedViews(), fit, 0)
    assert runner.run_training(job, out, out / "checkpoint", measure, lambda record, epoch: None)
    return dual_encoder.load_model(out)


def test_a_training_moves_projections_and_temperature_and_nothing_else(tmp_path: Path) -> None:
    tuned, start = run(tmp_path, frozen_fit(epochs=3)).state_dict(), make_encoder().state_dict()
    assert {name for name, tensor in tuned.items() if not torch.equal(tensor, start[name])} == TRAINED
    losses = [record["loss"] for record in json.loads((tmp_path / "training.json").read_text())["epochs"]]
    assert losses[2] < losses[0]


@pytest.mark.parametrize("dims", [[], [16, 8]])
def test_its_gradient_is_that_of_the_whole_model(dims: list[int]) -> None:
    fit, tokenizer = frozen_fit(matryoshka=dims), make_tokenizer(VOCABULARY)
    model, objective = make_encoder(), Projections(fit)
    objective.prepare(model, 3)
    (batch, *_) = PooledViews(KeyedViews(), model, tokenizer, fit).load_batches(seed=0, epoch=1)
    own = torch.eye(8, dtype=torch.bool)
    image, text = model.project_image(batch.image), model.project_text(batch.text)
    prefixes = [[normalize(one[:, :dim], dim=1) for one in (image, text)] for dim in (32, *dims)]
    loss = sum(compute_contrastive_loss(*both, model.scale, own) for both in prefixes) / len(prefixes)
    loss.backward()
    wanted = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    assert set(wanted) == TRAINED
    model.zero_grad()
    optimizers = optim.make_optimizers(model, fit)
    moved: dict[str, torch.Tensor] = {}
    for optimizer in optimizers:
        optimizer.register_step_pre_hook(
            lambda *_: moved.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
    value = objective.take_step(model, optimizers, batch, 1.0, 0)
    assert value == pytest.approx(loss.item(), abs=1e-6)
    norm = torch.stack([gradient.norm() for gradient in wanted.values()]).norm().clamp(min=fit.max_grad_norm)
    for name, gradient in wanted.items():
        torch.testing.assert_close(moved[name], gradient * fit.max_grad_norm / norm, atol=1e-5, rtol=1e-4)


class Killed(Exception):
    """What stops a training in the middle of an epoch."""


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = frozen_fit(epochs=2)
    wanted = run(tmp_path / "whole", fit).state_dict()
    monkeypatch.setenv("TUWEN_CHECKPOINT_SECONDS", "0")
    whole = trainer.Training._step

    def step(training: trainer.Training, batch: object) -> None:
        if training.done == 4:
            raise Killed
        whole(training, batch)

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Training, "_step", step)
        with pytest.raises(Killed):
            run(tmp_path / "killed", fit)
    again = run(tmp_path / "killed", fit).state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in again.items())


def test_a_tower_with_its_projection_inside_is_refused() -> None:
    with pytest.raises(UserError, match=r"freeze: towers: this model's picture tower has its projection inside"):
        Projections(frozen_fit()).prepare(dual_encoder.DualEncoder(TINY), 3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"muon_lr": 1e-3}, "muon_lr must be null"),
        ({"chunk": 4}, "chunk must be"),
        ({"layer_decay": 0.8}, "layer_decay must be 1.0 where freeze is towers"),
        ({"tower_lr": 1e-5}, "tower_lr must be null where freeze is towers"),
    ],
)
def test_settings_for_what_towers_compute_are_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frozen_fit(**setting)
