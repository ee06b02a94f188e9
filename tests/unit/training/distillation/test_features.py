"""Feature-guided distillation: what is hidden from the student, what it learns by that, and that 0 is nothing."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from tests.support.distributed_process import GUIDED, WORDS_HIDDEN, make_global_batch, make_guided
from tests.support.training import STEPS, TINY, epoch_batches, fit
from tuwen.core.params import Fit
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training import checkpoint, optim, step, trainer
from tuwen.training.distillation.features import FeatureGuidance
from tuwen.training.objective import Contrastive
from tuwen.training.selection import Measured

WEIGHT = GUIDED["fgd"]


def guided(changes: dict | None = None, **distil) -> Fit:
    return fit(**{"batch_size": 12} | (changes or {}), distil=GUIDED | distil)


def take_steps(settings: Fit, steps: int) -> tuple[DualEncoder, Contrastive, list[float]]:
    model, objective = make_guided(settings)
    optimizers = optim.make_optimizers(model, settings)
    losses = [objective.take_step(model, optimizers, make_global_batch(done), 0.1, done) for done in range(steps)]
    return model, objective, losses


def test_with_weight_0_no_bit_changes_whatever_share_would_be_hidden() -> None:
    plain = fit(batch_size=12, distil={name: GUIDED[name] for name in ("momentum", "alpha", "queue", "half_life")})
    model, objective, losses = take_steps(plain, 3)
    same, again, equal = take_steps(guided(fgd=0.0, hidden_share=0.9), 3)
    assert losses == equal
    assert all(torch.equal(one, same.state_dict()[name]) for name, one in model.state_dict().items())
    assert objective.get_state().keys() == again.get_state().keys() == {"loss_scale", "teacher", "queue"}
    assert again.describe_epoch(same).keys() == {"temperature", "queue_size"}
    assert take_steps(guided(), 3)[2] != pytest.approx(losses, abs=1e-3)


def test_the_student_reads_hidden_words_the_teacher_whole_ones_and_the_loss_is_both_terms() -> None:
    model, objective = make_guided(guided())
    batch = make_global_batch(1)
    shown = objective._features.hide(batch, TINY["text"]["max_tokens"], 3)
    hidden = shown.ids != batch.ids
    assert (shown.ids[hidden] == WORDS_HIDDEN.mask).all()
    assert 0.1 < hidden[batch.mask.bool()].float().mean() < 0.6
    taught = objective._teach(batch)
    with torch.no_grad():
        image, text = model.encode_image(batch.pixels), model.encode_text(shown.ids, batch.mask)
        whole = objective._teacher.model.encode_text(batch.ids, batch.mask)
        own = step.find_positives(torch.stack([batch.positive_id, batch.caption_id], dim=1))
        contrast = objective._guidance.compute_loss(taught, image, text, own, model.scale, 3)
    target = (32**0.5 * whole).softmax(1)
    guide = -(target * (32**0.5 * text).log_softmax(1)).sum(1).mean()
    loss = objective.take_step(model, [], batch, 1.0, 3)
    assert loss == pytest.approx((contrast + WEIGHT * guide).item(), abs=1e-5)
    assert objective.describe_epoch(model)["fgd"] == pytest.approx(guide.item(), abs=1e-5)
    assert objective.describe_epoch(model)["fgd"] == 0  # of the next epoch


def test_what_is_hidden_depends_on_seed_and_step_and_not_on_padding() -> None:
    batch, features = make_global_batch(1), FeatureGuidance(guided().distil, WORDS_HIDDEN, 0)
    first = features.hide(batch, 12, 3).ids
    assert torch.equal(features.hide(batch, 12, 3).ids, first)
    short = batch._replace(ids=batch.ids[:, :5], mask=batch.mask[:, :5])
    assert torch.equal(features.hide(short, 12, 3).ids, first[:, :5])
    for other in (
        features.hide(batch, 12, 4),
        FeatureGuidance(guided().distil, WORDS_HIDDEN, 1).hide(batch, 12, 3),
    ):
        assert not torch.equal(other.ids, first)


def test_the_guide_moves_the_text_tower_alone() -> None:
    model, objective = make_guided(guided())
    batch = make_global_batch(1)
    taught, shown = objective._teach(batch), objective._features.hide(batch, 12, 0)

    def compare(image: torch.Tensor, text: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        return objective._features.compute_loss(text, taught) + 0.0 * image.sum()

    step.compute_gradients(model, shown, guided(), compare)
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {name.partition("_")[0] for name in moved} == {"text"}
    assert "text_projection.weight" in moved
    assert len(moved) > 10


def test_the_masked_text_comes_to_mean_what_the_whole_one_does() -> None:
    cosines, records = {}, {}
    for weight in (1e-9, 30.0):
        settings = guided({"muon_lr": None, "lr": 2e-3}, fgd=weight)
        model, objective = make_guided(settings)
        optimizers, batch = optim.make_optimizers(model, settings), make_global_batch(1)
        for done in range(40):
            objective.take_step(model, optimizers, batch, 1.0, done)
            if done % 10 == 9:
                records.setdefault(weight, []).append(objective.describe_epoch(model)["fgd"])
        shown = objective._features.hide(batch, 12, 99)
        with torch.no_grad():
            masked = model.eval().encode_text(shown.ids, batch.mask)
            whole = objective._teacher.model.encode_text(batch.ids, batch.mask)
        cosines[weight] = functional.cosine_similarity(masked, whole).mean().item()
    assert cosines[30.0] > cosines[1e-9] + 0.05
    assert records[30.0][-1] < records[30.0][0] - 0.02


@pytest.mark.parametrize("changes", [{"chunk": 5}, {"gradient_checkpointing": True}])
def test_parts_and_checkpointed_layers_have_the_same_gradients(changes: dict) -> None:
    gradients = []
    for nested in ({}, changes):
        settings = guided({"matryoshka": [16]} | nested)
        model, objective = make_guided(settings)
        batch = make_global_batch(1)
        compare = partial(objective._compare, model, objective._teach(batch), 4)
        step.compute_gradients(model, objective._features.hide(batch, 12, 4), settings, compare)
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=0)


class Killed(Exception):
    pass


def test_a_training_that_was_killed_within_an_epoch_goes_on_to_the_bit(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(checkpoint.INTERVAL_VARIABLE, "0")
    settings = guided({"batch_size": 8})

    def run(folder: Path, feed=epoch_batches) -> tuple[DualEncoder, list[dict]]:
        torch.manual_seed(7)
        model = DualEncoder(TINY)
        training = trainer.train(
            model,
            feed,
            STEPS,
            settings,
            seed=0,
            checkpoint=folder,
            evaluate=lambda _: Measured({}, np.zeros(0)),
            log=lambda *_: None,
            objective=Contrastive(settings, FeatureGuidance(settings.distil, WORDS_HIDDEN, 0)),
        )
        return model, training.records

    def kill(epoch: int, first_step: int = 0):
        for at, batch in enumerate(epoch_batches(epoch, first_step), first_step):
            if (epoch, at) == (2, 2):
                raise Killed
            yield batch

    whole, records = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "broken", kill)
    resumed, again = run(tmp_path / "broken")
    assert again == records
    assert all(record["fgd"] > 0 for record in records)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_text_tower_that_is_frozen_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"distil\.fgd must be 0 where freeze is text"):
        guided({"freeze": "text"})
    assert guided({"freeze": "text"}, fgd=0.0).distil
    assert guided({"freeze": "image"}).distil
