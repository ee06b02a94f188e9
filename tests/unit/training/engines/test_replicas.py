"""One process alone, and as the only member of a group; test_distributed.py has two."""

import torch
from torch import nn

from tuwen.training.engines.replicas import Alone, GradientEngine, Replicas, make_replicas


def compute_gradients(make_engine) -> list[torch.Tensor | None]:
    """Return the gradients of two layers after two backward passes, the first held; a third layer is not used."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    engine: GradientEngine = make_engine(model)
    rows = torch.arange(6.0).view(2, 3)
    with engine.hold():
        torch.autograd.backward(engine.run(lambda: model[1](model[0](rows)).square().mean()))
    torch.autograd.backward(engine.run(lambda: model[0](rows).square().mean()))
    engine.finish_gradients()
    return [parameter.grad for parameter in model.parameters()]


def test_passes_that_are_held_are_added_and_a_layer_that_was_not_used_has_no_gradient(group) -> None:
    alone, in_group = compute_gradients(lambda model: Alone()), compute_gradients(Replicas)
    assert [gradient is None for gradient in alone] == [False] * 4 + [True] * 2
    assert [gradient is None for gradient in in_group] == [False] * 4 + [True] * 2
    for one, two in zip(alone[:4], in_group[:4], strict=True):
        assert torch.equal(one, two)


def test_one_process_sends_nothing() -> None:
    assert isinstance(make_replicas(nn.Linear(2, 2)), Alone)
