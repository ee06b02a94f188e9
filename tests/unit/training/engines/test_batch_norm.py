"""Layers that normalise by the rows of all processes, as far as a CPU can tell."""

import pytest
import torch
from torch import nn

from tuwen.core.compat import declare_torchvision_ops
from tuwen.core.errors import UserError
from tuwen.training.engines.batch_norm import convert_batch_norm


def test_torchs_own_layers_are_converted_and_compute_the_same() -> None:
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(144))
    tower(torch.randn(5, 3, 8, 8))  # statistics that are not those of a new layer
    tower.eval()
    rows = torch.randn(5, 3, 8, 8)
    expected, state = tower(rows), tower.state_dict()
    shared = convert_batch_norm(tower)
    kinds = [type(layer) for layer in shared]
    assert kinds == [nn.Conv2d, nn.SyncBatchNorm, nn.ReLU, nn.Flatten, nn.SyncBatchNorm]
    assert torch.equal(shared(rows), expected)
    assert shared.state_dict().keys() == state.keys()


def test_a_layer_that_does_more_is_refused_by_name() -> None:
    declare_torchvision_ops()
    from timm.layers import BatchNormAct2d

    tower = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(BatchNormAct2d(4)))
    with pytest.raises(UserError, match=r"1\.0 of the image tower is a BatchNormAct2d, .*freeze this one"):
        convert_batch_norm(tower)
    assert type(tower[1][0]) is BatchNormAct2d
