"""What changes the weights, and what must not."""

import pytest
import torch

from tests.support.frozen import make_encoder
from tests.support.training import TINY, epoch_batches, fit
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training import optim
from tuwen.training.step import step


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


def test_adamw_moves_all_weights_of_a_group_in_one_kernel() -> None:
    model = DualEncoder(TINY)
    (adamw,) = optim.make_optimizers(model, fit(muon_lr=None))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with torch.profiler.profile() as profile:
        adamw.step()
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::_fused_adamw_"] == len(adamw.param_groups)


def test_the_matrix_that_embeds_patches_decays_as_any_other() -> None:
    parts = {"patch_embed": torch.nn.Conv2d(3, 4, 2, bias=False), "pos_embed": torch.nn.Embedding(5, 4)}
    decayed, plain = optim.make_optimizers(torch.nn.ModuleDict(parts), fit(muon_lr=None))[0].param_groups
    assert [parameter.shape for parameter in decayed["params"]] == [(4, 3, 2, 2)]
    assert [parameter.shape for parameter in plain["params"]] == [(5, 4)]


def test_rates_decay_by_layer_and_projections_have_their_own() -> None:
    model = make_encoder()
    settings = fit(lr=1e-3, tower_lr=1e-4, layer_decay=0.5, muon_lr=None)
    rates = {}
    for group in optim.make_optimizers(model, settings)[0].param_groups:
        assert group["initial_lr"] == group["lr"]
        rates |= {id(parameter): (group["lr"], group["weight_decay"]) for parameter in group["params"]}
    of = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert of["log_scale"] == (1e-3, 0.0)
    assert of["text_projection.weight"] == of["image_tower.projection.weight"] == (1e-3, 0.1)
    assert of["image_tower.norm_post.weight"] == (1e-4, 0.0)
    assert of["image_tower.layer.0.fc1.weight"] == (0.5e-4, 0.1)
    assert of["text_tower.encoder.layer.0.output.dense.bias"] == (0.5e-4, 0.0)
    assert of["image_tower.patches.weight"] == (0.25e-4, 0.1)
    assert of["text_tower.embeddings.word_embeddings.weight"] == (0.25e-4, 0.0)


def test_muons_rate_decays_by_layer_too_and_a_tower_may_have_a_rate_without_decay() -> None:
    config = make_encoder().config
    model = DualEncoder(config | {"image": config["image"] | {"layers": 2}})
    _, muon = optim.make_optimizers(model, fit(lr=1e-3, muon_lr=8e-3, layer_decay=0.5))
    assert [group["lr"] for group in muon.param_groups] == [4e-3, 2e-3]
    deepest = {id(p) for p in muon.param_groups[1]["params"]}
    assert deepest == {
        id(p) for name, p in model.named_parameters() if "image_tower.layer.0." in name and p.ndim > 1
    }
    flat = optim.make_optimizers(model, fit(lr=1e-3, muon_lr=None, tower_lr=2e-3))[0].param_groups
    assert [(group["lr"], group["weight_decay"]) for group in flat] == [
        *((2e-3, 0.1), (2e-3, 0.0)),
        *((1e-3, 0.1), (1e-3, 0.0)),
    ]


def test_a_step_moves_each_group_at_its_own_rate_times_the_factor() -> None:
    model, settings = make_encoder(), fit(lr=1e-3, tower_lr=1e-4, layer_decay=0.5, muon_lr=None, weight_decay=0.0)
    optimizers = optim.make_optimizers(model, settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(model, optimizers, next(epoch_batches(1)), 0.5, settings)
    # AdamW's first step is the rate, whatever the gradient, where that is not 0
    moved = {name: (value - before[name]).abs().max().item() for name, value in model.state_dict().items()}
    assert moved["text_projection.weight"] == pytest.approx(0.5e-3, rel=0.01)
    assert moved["image_tower.layer.0.fc1.weight"] == pytest.approx(0.25e-4, rel=0.01)
    assert moved["text_tower.embeddings.word_embeddings.weight"] == pytest.approx(0.125e-4, rel=0.01)


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
