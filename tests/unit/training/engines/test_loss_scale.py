"""fp16 on a CPU, which has kernels for it, slow ones: what a card without bf16 units does."""

import math

import pytest
import torch

from tests.support.distributed_process import STILL
from tests.support.training import epoch_batches, fit
from tuwen.model import precision
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training import optim, step
from tuwen.training.engines import loss_scale
from tuwen.training.engines.loss_scale import FIRST_FACTOR, LossScale


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in fp16 where bf16 is asked for."""
    for module in (precision, loss_scale):
        monkeypatch.setattr(module, "choose_precision", lambda wanted: "fp16" if wanted == "bf16" else wanted)


def read_factor(scale: LossScale) -> float:
    return scale.get_state()["factor"]


def test_the_factor_halves_by_an_overflow_and_doubles_after_many_good_steps(half, monkeypatch) -> None:
    monkeypatch.setattr(loss_scale, "GROW_AFTER", 3)
    scale = LossScale("bf16")
    assert scale.follow(math.inf)
    assert read_factor(scale) == FIRST_FACTOR / 2
    assert [scale.follow(1.0) for _ in range(3)] == [False] * 3
    assert read_factor(scale) == FIRST_FACTOR
    again = LossScale("bf16")
    again.set_state(scale.get_state())
    assert again.get_state() == scale.get_state()
    overflows = [scale.follow(math.nan) for _ in range(17)]
    assert overflows == [True] * 16 + [False]  # no factor is left to halve: the gradient itself is not finite


def test_other_precisions_have_no_factor() -> None:
    scale, loss = LossScale("fp32"), torch.ones(())
    assert scale.multiply(loss) is loss
    assert not scale.follow(math.inf)


@pytest.mark.parametrize("chunk", [None, 3])
def test_small_gradients_survive_fp16_and_are_those_of_fp32(chunk: int | None, half) -> None:
    batch, gradients = next(epoch_batches(1)), {}
    small = 1e-6  # of the loss: its gradients lie below what fp16 holds
    for wanted, scale in (("fp32", None), ("bf16", LossScale("bf16")), ("bf16", LossScale("fp32"))):
        torch.manual_seed(7)
        model, settings = DualEncoder(STILL), fit(precision=wanted, chunk=chunk)
        step.compute_gradients(
            model, batch, settings, lambda *rows, m=model: small * step.compare_rows(m, *rows), scale=scale
        )
        gradients[wanted, scale is None or read_factor(scale)] = model.image_tower.conv1.weight.grad
    exact, scaled, plain = gradients.values()
    assert (scaled - exact).norm() < 0.02 * exact.norm()
    assert (plain - exact).norm() > 0.1 * exact.norm()


def test_a_step_that_overflows_is_left_out_and_the_next_is_taken(half) -> None:
    torch.manual_seed(7)
    model, settings = DualEncoder(STILL), fit(precision="bf16", muon_lr=None)
    optimizers, scale = optim.make_optimizers(model, settings), LossScale("bf16")
    scale.set_state({"factor": 2.0**60, "good": 0})
    before = model.text_projection.weight.clone()
    losses, taken = [], []
    for _ in range(50):
        losses.append(step.step(model, optimizers, next(epoch_batches(1)), 1.0, settings, scale=scale))
        taken.append(not torch.equal(model.text_projection.weight, before))
    assert all(map(math.isfinite, losses))
    assert (taken[0], taken[-1]) == (False, True)
    assert read_factor(scale) < 2.0**60


@pytest.mark.gpu
def test_a_card_trains_in_fp16_as_it_does_in_fp32(half) -> None:
    losses = {}
    for wanted in ("fp32", "bf16"):
        torch.manual_seed(7)
        model, settings = DualEncoder(STILL), fit(precision=wanted, muon_lr=None)
        step.prepare_model(model, settings)
        optimizers, scale = optim.make_optimizers(model, settings), LossScale(wanted)
        losses[wanted] = [
            step.step(model, optimizers, batch, 1.0, settings, scale=scale) for batch in epoch_batches(1)
        ]
    assert losses["fp32"][-1] < losses["fp32"][0]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
