"""The loop on tensors alone: no tables, no pictures on disk."""

import pytest
import torch

from tuwen import train
from tuwen.errors import UserError
from tuwen.loader import Batch
from tuwen.model import DualEncoder
from tuwen.params import Fit

CONFIG = {
    "dim": 32,
    "image": {"size_px": 16, "patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.5},
    "text": {"width": 64, "layers": 1, "dropout": 0.1, "max_tokens": 12},
    "vocabulary": 24,
}


def fit(**changes) -> Fit:
    values = {
        "epochs": 4,
        "batch_size": 8,
        "lr": 2e-3,
        "muon_lr": 2e-3,
        "weight_decay": 0.1,
        "warmup_steps": 2,
        "max_grad_norm": 1.0,
        "precision": "fp32",
        "freeze_text": False,
    }
    return Fit(**(values | changes))


PICTURES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def epoch_batches(epoch: int):
    """Eight pictures with a token each, in an order that the epoch decides."""
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(3):
        order = torch.randperm(8, generator=generator)
        pixels = PICTURES[order]
        ids = torch.stack([torch.full((8,), 2), order + 5, torch.full((8,), 3)], dim=1)
        yield Batch(pixels, ids, torch.ones_like(ids), order, order)


def run(checkpoint, settings: Fit, log=lambda record, epoch: None) -> tuple[DualEncoder, list]:
    torch.manual_seed(7)
    model = DualEncoder(CONFIG)
    records = train.train(
        model, epoch_batches, 3, settings, seed=0, checkpoint=checkpoint, evaluate=lambda model: {}, log=log
    )
    return model, records


class Killed(Exception):
    pass


def test_the_loss_falls_on_pairs_that_can_be_told_apart(tmp_path) -> None:
    _, records = run(tmp_path, fit(epochs=30))
    assert [record["epoch"] for record in records] == list(range(1, 31))
    assert records[0]["loss"] > 1.5
    assert records[-1]["loss"] < 0.3


def test_two_trainings_end_with_the_same_weights(tmp_path) -> None:
    one, _ = run(tmp_path / "one", fit(precision="bf16"))
    two, _ = run(tmp_path / "two", fit(precision="bf16"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_killed_training_goes_on_and_ends_as_the_unbroken_one(tmp_path) -> None:
    whole, records = run(tmp_path / "whole", fit())

    def kill(record, epoch) -> None:
        if epoch == 3:  # after two checkpoints, before the third
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "broken", fit(), log=kill)
    seen = []
    resumed, again = run(tmp_path / "broken", fit(), log=lambda record, epoch: seen.append(epoch))
    assert seen == [3, 4]
    assert again == records
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_frozen_text_tower_stays_as_it_is(tmp_path) -> None:
    torch.manual_seed(7)
    before = DualEncoder(CONFIG).state_dict()
    after, _ = run(tmp_path, fit(freeze_text=True))
    moved = {name for name, value in after.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("image_tower.") for name in moved)
    assert not any(name.startswith(("text_tower.", "text_projection.")) for name in moved)


def test_every_parameter_is_trained_by_exactly_one_optimizer_and_decay_is_for_matrices_alone() -> None:
    model = DualEncoder(CONFIG)
    groups = [group for optimizer in train.make_optimizers(model, fit()) for group in optimizer.param_groups]
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim > 1 and "embed" not in name), name


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    factors = [train.schedule(done, 100, 10) for done in range(101)]
    assert factors[0] == pytest.approx(0.1, abs=1e-3)
    assert max(factors) == pytest.approx(factors[9], abs=0.03)
    assert factors[100] == pytest.approx(0.0, abs=1e-9)


def test_a_loss_that_is_not_finite_and_an_empty_epoch_are_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"epoch \d+, step \d+: the loss is nan; lower lr"):
        run(tmp_path, fit(lr=1e12, muon_lr=1e12, max_grad_norm=1e12))
    with pytest.raises(UserError, match="batch_size: 8 is more than the training rows"):
        train.train(
            DualEncoder(CONFIG), epoch_batches, 0, fit(), seed=0, checkpoint=tmp_path, evaluate=dict, log=print
        )


def test_the_checkpoint_is_keyed_by_inputs_and_params(tmp_path) -> None:
    (tmp_path / "views.parquet").write_bytes(b"one")
    one = train.checkpoint_folder("finetuned", {"augmented": tmp_path}, {"lr": 1})
    assert one == train.checkpoint_folder("finetuned", {"augmented": tmp_path}, {"lr": 1})
    assert one != train.checkpoint_folder("finetuned", {"augmented": tmp_path}, {"lr": 2})
    (tmp_path / "views.parquet").write_bytes(b"two")
    assert one != train.checkpoint_folder("finetuned", {"augmented": tmp_path}, {"lr": 1})
