"""What changes the weights, and what must not."""

import pytest
import torch

from tests.support.frozen import make_encoder
from tests.support.training import TINY, fit
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training import optim


@pytest.mark.parametrize("muon_lr", [None, 1e-3])
def test_every_parameter_has_exactly_one_optimizer_and_decay_is_for_matrices_alone(muon_lr) -> None:
    model = DualEncoder(TINY)
    optimizers = optim.make_optimizers(model, fit(muon_lr=muon_lr))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    trained = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(trained) == sorted(id(parameter) for parameter in model.parameters())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim > 1 and "embed" not in name), name
    hidden = {id(p) for group in optimizers[1].param_groups for p in group["params"]} if muon_lr else set()
    named = {name for name, parameter in model.named_parameters() if id(parameter) in hidden}
    assert len(named) == (4 + 6 if muon_lr else 0)  # of one layer in each tower
    assert not [name for name in named if "projection" in name or "embed" in name]


def test_the_matrix_that_embeds_patches_decays_as_any_other() -> None:
    parts = {"patch_embed": torch.nn.Conv2d(3, 4, 2, bias=False), "pos_embed": torch.nn.Embedding(5, 4)}
    decayed, plain = optim.make_optimizers(torch.nn.ModuleDict(parts), fit(muon_lr=None))[0].param_groups
    assert [parameter.shape for parameter in decayed["params"]] == [(4, 3, 2, 2)]
    assert [parameter.shape for parameter in plain["params"]] == [(5, 4)]


def test_a_frozen_tower_has_no_optimizer_and_draws_no_dropout() -> None:
    for tower, other in (("text", "image"), ("image", "text")):
        model = DualEncoder(TINY)
        optim.freeze(model, tower)
        optim.set_modes(model, tower)
        trained = {id(p) for group in optim.make_optimizers(model, fit())[0].param_groups for p in group["params"]}
        assert id(model.log_scale) in trained
        assert not [n for n, p in model.named_parameters() if n.startswith(f"{tower}_") and id(p) in trained]
        assert not getattr(model, f"{tower}_tower").training
        assert getattr(model, f"{other}_tower").training
        optim.freeze(model, "none")
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_frozen_towers_leave_projections_and_temperature_to_be_trained() -> None:
    model = make_encoder()
    optim.freeze(model, "towers")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"image_tower.projection.weight", "text_projection.weight", "log_scale"}


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    factors = [optim.compute_lr_factor(done, 100, 10) for done in range(101)]
    assert factors[0] == pytest.approx(0.1, abs=1e-3)
    assert max(factors) == pytest.approx(factors[9], abs=0.03)
    assert factors[100] == pytest.approx(0.0, abs=1e-9)


def test_the_average_is_the_recurrence_of_its_definition_and_can_be_put_into_the_model() -> None:
    model = torch.nn.BatchNorm1d(3)
    ema = optim.Ema(model, 0.9)  # younger than its span until the 80th step
    expected = model.weight.detach().clone()
    for done in range(1, 101):
        with torch.no_grad():
            model.weight.normal_(generator=torch.Generator().manual_seed(done))
            model.num_batches_tracked += 1
        ema.update(model, done)
        decay = min(0.9, (1 + done) / (10 + done))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(ema.weights["weight"], expected)
    assert ema.weights["num_batches_tracked"] == 100  # a count has no average
    own = model.weight.detach().clone()
    with ema.apply_to(model):
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight, own)


def test_a_teacher_follows_with_its_momentum_buffers_too_and_is_never_trained() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
    teacher = optim.Teacher(model, 0.75)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()(torch.randn(16, 3) + 2)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    teacher.update(model)
    for name, value in model.state_dict().items():
        own = teacher.model.state_dict()[name]
        if name == "1.num_batches_tracked":
            assert own == value == 1
        else:
            torch.testing.assert_close(own, 0.75 * before[name] + 0.25 * value)
    assert not torch.equal(teacher.model[1].running_mean, before["1.running_mean"])
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
