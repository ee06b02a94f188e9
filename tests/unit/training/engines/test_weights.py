"""Checkpoints of weights in shares."""

from pathlib import Path

import torch
from torch import nn

from tests.support.training import fit
from tuwen.training.checkpoint import STATE_FILE, Checkpoint
from tuwen.training.engines.weights import Weights


def test_a_state_that_cannot_be_written_leaves_the_shares_that_the_old_one_names(
    tmp_path: Path, monkeypatch, group
) -> None:
    torch.manual_seed(0)
    layers, kept = nn.Linear(3, 2), Checkpoint(tmp_path)
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    weights = Weights(layers, nn.Linear(3, 2), fit(shard="full", muon_lr=None, ema=None))
    weights.save(kept, 1, {"done": 1})
    with torch.no_grad():
        layers.weight.add_(1)
    torch_save = torch.save

    def fill(body: object, part: Path) -> None:
        if Path(part).name.startswith(STATE_FILE):
            raise OSError(28, "No space left on device")
        torch_save(body, part)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fill)
        weights.save(kept, 2, {"done": 2})
    state = kept.load()
    assert state is not None
    weights.resume(kept, state)
    assert state["done"] == 1
    for name, value in before.items():
        assert torch.equal(layers.state_dict()[name], value)
    weights.save(kept, 3, {"done": 3})
    assert [path.name for path in tmp_path.glob("shares-*")] == ["shares-3"]
