"""Lengths of gradients and groups of an optimizer where some parameters are shares."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tuwen.training.engines.local import clip_gradients, get_local, split_group


def make_layers(shared: bool) -> nn.Sequential:
    """Return two layers with gradients, of which the second's parameters are shares."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2))
    if shared:
        fully_shard(layers[1], mesh=init_device_mesh("cpu", (1,)))
    layers(torch.arange(20.0).view(4, 5)).square().sum().backward()
    return layers


@pytest.mark.parametrize("longest", [0.1, 1e9])
def test_shares_and_whole_gradients_are_clipped_by_their_common_length(longest: float, group) -> None:
    plain, mixed = make_layers(shared=False), make_layers(shared=True)
    expected = torch.nn.utils.clip_grad_norm_(plain.parameters(), longest)
    torch.testing.assert_close(clip_gradients(mixed.parameters(), longest), expected)
    for one, two in zip(plain.parameters(), mixed.parameters(), strict=True):
        torch.testing.assert_close(get_local(two.grad), one.grad)


def test_a_group_of_an_optimizer_holds_shares_or_whole_parameters(group) -> None:
    layers, settings = make_layers(shared=True), {"weight_decay": 0.1}
    groups = list(split_group(settings, list(layers.parameters())))
    assert [[tuple(one.shape) for one in part["params"]] for part in groups] == [[(2, 3), (2,)], [(3, 5), (3,)]]
    assert [part["weight_decay"] for part in groups] == [0.1, 0.1]
    whole = list(layers[0].parameters())
    assert list(split_group(settings, whole)) == [settings | {"params": whole}]
    assert list(split_group(settings, [])) == [settings | {"params": []}]
