"""Learning from a momentum teacher: its targets, its queue, and that without them nothing changes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.distributed_process import STILL, make_global_batch
from tests.support.frozen import IMAGE
from tests.support.training import PIXELS, STEPS, TINY, epoch_batches, fit
from tuwen.core.params import Fit
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training import checkpoint, optim, step, trainer
from tuwen.training.distillation.guidance import Guidance, Taught
from tuwen.training.loss import cut_prefix
from tuwen.training.objective import Contrastive
from tuwen.training.selection import Measured


def distilled(**changes) -> Fit:
    return fit(batch_size=12, distil={"momentum": 0.9, "alpha": 0.4, "queue": 20, "half_life": 10} | changes)


def make_prepared(settings: Fit) -> tuple[DualEncoder, Contrastive]:
    torch.manual_seed(7)
    model, objective = DualEncoder(STILL), Contrastive(settings)
    objective.prepare(model, 4)
    return model, objective


def take_steps(settings: Fit, steps: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return the losses of some plain steps, and the weights after them."""
    model, objective = make_prepared(settings)
    optimizers = optim.make_optimizers(model, settings)
    losses = [objective.take_step(model, optimizers, make_global_batch(done), 0.1, done) for done in range(steps)]
    return losses, model.state_dict()


def test_without_targets_and_queue_the_steps_are_those_without_a_teacher() -> None:
    losses, weights = take_steps(fit(batch_size=12, muon_lr=None), 4)
    still = distilled(alpha=0.0, queue=0).model_copy(update={"muon_lr": None})
    again, same = take_steps(still, 4)
    assert again == pytest.approx(losses, abs=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(same[name], value, atol=1e-5, rtol=0)
    assert take_steps(distilled(), 4)[0] != pytest.approx(losses, abs=1e-3)


def test_the_loss_is_the_cross_entropy_to_the_mix_of_teacher_and_pairs() -> None:
    """Written out for the third step: two batches lie in the queue, and alpha has come half of its way."""
    model, objective = make_prepared(distilled())
    optimizers = optim.make_optimizers(model, distilled())
    kept = []
    for done in range(2):
        batch = make_global_batch(done)
        teacher = objective._teacher.model
        with torch.no_grad():
            kept.append((teacher.encode_image(batch.pixels), teacher.encode_text(batch.ids, batch.mask), batch))
        objective.take_step(model, optimizers, batch, 0.1, done)
    batch = make_global_batch(5)
    with torch.no_grad():
        own = [model.encode_image(batch.pixels), model.encode_text(batch.ids, batch.mask)]
        guide = [teacher.encode_image(batch.pixels), teacher.encode_text(batch.ids, batch.mask)]
    earlier = [torch.cat([one[side] for one in kept])[-20:] for side in (0, 1)]
    weight = torch.cat([torch.ones(12), 0.5 ** (torch.arange(19, -1, -1) / 10)])
    positive = torch.zeros(12, 32, dtype=torch.bool)
    for name in ("positive_id", "caption_id"):
        ids = torch.cat([getattr(one[2], name) for one in kept])[-20:]
        mine = getattr(batch, name)
        positive |= mine[:, None] == torch.cat([mine, ids])[None]
    assert positive[:, 12:].any()  # rows of the queue that are siblings of this batch's
    hot = positive * weight / (positive * weight).sum(1, keepdim=True)
    losses = []
    for side in (0, 1):
        candidates = torch.cat([own[1 - side], earlier[1 - side]])
        guides = torch.cat([guide[1 - side], earlier[1 - side]])
        scores = weight * torch.exp(model.scale * own[side] @ candidates.T)
        soft = weight * torch.exp(model.scale * guide[side] @ guides.T)
        target = 0.2 * soft / soft.sum(1, keepdim=True) + 0.8 * hot
        losses.append(-(target * (scores / scores.sum(1, keepdim=True)).log()).sum(1).mean())
    expected = torch.stack(losses).mean().item()
    assert objective.take_step(model, optimizers, batch, 0.1, 2) == pytest.approx(expected, abs=1e-4)


def test_parts_and_checkpointed_layers_have_the_same_gradients() -> None:
    gradients = []
    for changes in ({}, {"chunk": 5}, {"gradient_checkpointing": True}):
        settings = distilled().model_copy(update=changes)
        model, objective = make_prepared(settings)
        objective._guidance.put(objective._teach(make_global_batch(3)))
        vectors = objective._teach(make_global_batch(1))

        def compare(*rows: torch.Tensor, objective=objective, model=model, vectors=vectors) -> torch.Tensor:
            return objective._compare(model, vectors, 4, *rows)

        step.compute_gradients(model, make_global_batch(1), settings, compare)
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, atol=1e-5, rtol=0)


class Killed(Exception):
    pass


def test_a_killed_training_goes_on_with_teacher_and_queue(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(checkpoint.INTERVAL_VARIABLE, "0")
    settings = distilled().model_copy(update={"batch_size": 8})

    def run(folder: Path, feed=epoch_batches) -> tuple[DualEncoder, trainer.Training]:
        torch.manual_seed(7)
        model = DualEncoder(TINY)
        measure = {"evaluate": lambda _: Measured({}, np.zeros(0)), "log": lambda *_: None}
        training = trainer.train(model, feed, STEPS, settings, seed=0, checkpoint=folder, **measure)
        return model, training

    def kill(epoch: int, first_step: int = 0):
        for at, batch in enumerate(epoch_batches(epoch, first_step), first_step):
            if (epoch, at) == (2, 1):
                raise Killed
            yield batch

    whole, training = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "broken", kill)
    resumed, again = run(tmp_path / "broken")
    assert again.records == training.records
    assert 8 < training.records[0]["queue_size"] < 20
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_prefix_is_compared_with_the_same_prefix_of_teacher_and_queue() -> None:
    draw = torch.Generator().manual_seed(0)
    image, text, guide_image, guide_text = torch.nn.functional.normalize(
        torch.randn(4, 12, 32, generator=draw), dim=2
    )
    ids, own, settings = torch.arange(24).view(12, 2), torch.eye(12, dtype=torch.bool), distilled().distil
    assert settings
    losses = []
    for dim, guidance in ((8, Guidance(settings, 32, 4)), (8, Guidance(settings, 8, 4))):
        whole = guidance.queue.read().image.shape[1] == 32
        taught = Taught(*(one if whole else cut_prefix(one, dim) for one in (guide_image, guide_text)), ids)
        guidance.put(taught._replace(image=taught.text, text=taught.image, ids=ids + 100))
        loss = guidance.compute_loss(
            taught, cut_prefix(image, dim), cut_prefix(text, dim), own, torch.tensor(14.0), 2
        )
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize("image", [TINY["image"], IMAGE])
@pytest.mark.parametrize("first", [0, 3])  # of a training that was resumed in its second epoch
def test_the_last_epochs_show_all_patches(image: dict, first: int) -> None:
    torch.manual_seed(7)
    model, objective = DualEncoder(STILL | {"image": image}), Contrastive(fit(epochs=2, all_patches_epochs=1))
    objective.prepare(model, 2)
    for done in range(first, 4):
        objective.take_step(model, [], make_global_batch(done), 1.0, done)
        one, other = (model.encode_image(PIXELS).detach() for _ in range(2))
        assert torch.equal(one, other) == (done >= 2)
    torch.testing.assert_close(one, model.eval().encode_image(PIXELS))
