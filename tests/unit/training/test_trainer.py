"""The loop on tensors alone: no tables, no images on disk."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.training import STEPS, TINY, epoch_batches, fit
from tuwen.core.errors import UserError
from tuwen.core.params import Fit
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training import checkpoint, trainer
from tuwen.training.selection import Measured


def skip_measuring(model: DualEncoder) -> Measured:
    return Measured({}, np.zeros(0))


def run(
    folder: Path, settings: Fit, log=lambda record, epoch: None, feed=epoch_batches, evaluate=skip_measuring
) -> tuple[DualEncoder, trainer.Training]:
    torch.manual_seed(7)
    model = DualEncoder(TINY)
    training = trainer.train(model, feed, STEPS, settings, seed=0, checkpoint=folder, evaluate=evaluate, log=log)
    return model, training


def equal(one: DualEncoder, two: DualEncoder) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


class Killed(Exception):
    pass


def kill_at(epoch: int, step: int):
    """Return batches that end in `Killed` at that step, counted from 1."""

    def feed(number: int, first_step: int = 0):
        for at, batch in enumerate(epoch_batches(number, first_step), first_step + 1):
            if (number, at) == (epoch, step):
                raise Killed
            yield batch

    return feed


def test_the_loss_falls_on_pairs_that_can_be_told_apart(tmp_path) -> None:
    _, training = run(tmp_path, fit(epochs=30))
    assert [record["epoch"] for record in training.records] == list(range(1, 31))
    assert training.records[0]["loss"] > 1.5
    assert training.records[-1]["loss"] < 0.3


def test_two_trainings_end_with_the_same_weights(tmp_path) -> None:
    one, _ = run(tmp_path / "one", fit(precision="bf16"))
    two, _ = run(tmp_path / "two", fit(precision="bf16"))
    assert equal(one, two)


@pytest.mark.parametrize(
    ("step", "changes"), [(1, {}), (2, {"layer_decay": 0.5, "tower_lr": 1e-3, "matryoshka": [16]}), (3, {})]
)
def test_a_killed_training_goes_on_with_the_next_step_and_ends_as_the_unbroken_one(
    step, changes, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv(checkpoint.INTERVAL_VARIABLE, "0")
    settings = fit(ema=0.9, **changes)
    whole, training = run(tmp_path / "whole", settings)
    with pytest.raises(Killed):
        run(tmp_path / "broken", settings, feed=kill_at(3, step))
    seen, calls = [], []

    def feed(epoch: int, first_step: int):
        calls.append((epoch, first_step))
        return epoch_batches(epoch, first_step)

    resumed, again = run(tmp_path / "broken", settings, feed=feed, log=lambda record, epoch: seen.append(epoch))
    assert seen == [3, 4]
    assert calls == [(3, step - 1), (4, 0)]
    assert f"resumed after step {6 + step - 1} (epoch 2)" in capsys.readouterr().out
    assert again.records == training.records
    assert equal(whole, resumed)
    groups = [
        [group["initial_lr"] for group in one.weights.optimizers[0].param_groups] for one in (training, again)
    ]
    assert groups[0] == groups[1]
    assert all(torch.equal(again.ema.weights[name], value) for name, value in training.ema.weights.items())


def test_a_training_killed_after_an_epoch_was_measured_does_not_measure_it_again(tmp_path) -> None:
    whole, training = run(tmp_path / "whole", fit())

    def kill(record, epoch) -> None:
        if epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "broken", fit(), log=kill)
    seen = []
    resumed, again = run(tmp_path / "broken", fit(), log=lambda record, epoch: seen.append(epoch))
    assert seen == [4]
    assert again.records == training.records
    assert equal(whole, resumed)


def test_one_killed_while_an_epoch_is_measured_measures_that_epoch(tmp_path) -> None:
    whole, training = run(tmp_path / "whole", fit())
    calls = []

    def kill(model) -> Measured:
        calls.append(model)
        if len(calls) == 3:
            raise Killed
        return skip_measuring(model)

    with pytest.raises(Killed):
        run(tmp_path / "broken", fit(), evaluate=kill)
    seen = []
    resumed, again = run(tmp_path / "broken", fit(), log=lambda record, epoch: seen.append(epoch))
    assert seen == [3, 4]
    assert again.records == training.records
    assert equal(whole, resumed)


@pytest.mark.parametrize("tower", ["text", "image"])
def test_a_frozen_tower_stays_as_it_is(tower, tmp_path) -> None:
    torch.manual_seed(7)
    before = DualEncoder(TINY).state_dict()
    after, _ = run(tmp_path, fit(freeze=tower))
    moved = {name for name, value in after.state_dict().items() if not torch.equal(value, before[name])}
    other = {"text": "image", "image": "text"}[tower]
    assert any(name.startswith(f"{other}_tower.") for name in moved)
    assert not any(name.startswith(f"{tower}_") for name in moved)


def test_a_loss_that_is_not_finite_stops_with_its_pairs_and_keeps_the_batch_and_the_weights(tmp_path) -> None:
    def feed(epoch: int, first_step: int = 0):
        for step, batch in enumerate(epoch_batches(epoch, first_step), first_step + 1):
            broken = batch.pixels * torch.nan if (epoch, step) == (2, 3) else batch.pixels
            yield batch._replace(pixels=broken)

    expected = r"epoch 2, step 3: the loss is nan; lower lr .*pairs: pair-\d, .*not_finite-0\.pt"
    with pytest.raises(UserError, match=expected) as stopped:
        run(tmp_path, fit(), feed=feed)
    batch = torch.load(tmp_path / "not_finite-0.pt", weights_only=True)
    *_, last = epoch_batches(2)
    assert torch.equal(batch["ids"], last.ids)
    assert batch["pixels"].isnan().all()
    assert all(name in str(stopped.value) for name in last.pair_ids)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert all(value.isfinite().all() for value in state["model"].values())
    healed, _ = run(tmp_path, fit())
    assert equal(healed, run(tmp_path / "whole", fit())[0])


def test_an_empty_epoch_and_settings_that_cannot_be_are_named(tmp_path, monkeypatch) -> None:
    settings = {"seed": 0, "checkpoint": tmp_path, "evaluate": skip_measuring, "log": print}
    with pytest.raises(UserError, match="batch_size: 8 is more than the training rows"):
        trainer.train(DualEncoder(TINY), epoch_batches, 0, fit(), **settings)
    monkeypatch.setenv(checkpoint.INTERVAL_VARIABLE, "often")
    with pytest.raises(UserError, match="TUWEN_CHECKPOINT_SECONDS must be a number of seconds, got 'often'"):
        trainer.train(DualEncoder(TINY), epoch_batches, STEPS, fit(), **settings)


def test_a_full_disk_costs_one_warning_and_the_old_checkpoint_stays(tmp_path, capsys) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(record, epoch) -> None:
        if epoch == 1:  # from now on no file may grow beyond 64 kB
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))

    try:
        full, _ = run(tmp_path / "full", fit(), log=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.load(tmp_path / "full/state.pt", weights_only=True)["done"] == STEPS
    assert not list((tmp_path / "full").glob("*.part"))
    printed = capsys.readouterr().err
    assert printed.count("cannot be written") == 1
    assert "state.pt" in printed
    whole, _ = run(tmp_path / "whole", fit())
    assert equal(full, whole)
    again, _ = run(tmp_path / "full", fit())  # goes on from the old one
    assert equal(again, whole)


def test_speeds_are_logged_and_no_part_of_the_records(tmp_path) -> None:
    logged = []
    _, training = run(tmp_path, fit(epochs=2), log=lambda record, epoch: logged.append(record))
    for record, kept_record in zip(logged, training.records, strict=True):
        assert record["pairs_per_second"] > 0
        assert 0 < record["data_wait_share"] < 1
        assert set(record) - set(kept_record) == {"pairs_per_second", "data_wait_share"}
