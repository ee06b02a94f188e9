"""Contrastive gradients of a batch whose activations do not fit in memory (Gao et al. 2021, "GradCache").

The features are computed piece by piece without a graph, the loss gives each feature its gradient, and every piece
is computed once more to carry its part back. Each piece draws the same dropout both times: its random state is
restored, or the gradients would belong to features that the loss never saw.
Shapes: n rows of a piece, B rows of all pieces, D dimensions.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tuwen.core.errors import UserError

Piece = Callable[[], Tensor]  # computes the features [n, D] of some rows


class RandomState(NamedTuple):
    """What dropout draws from: the CPU's generator, and the GPU's where there is one."""

    cpu: Tensor
    cuda: Tensor | None


def compute_features(pieces: Sequence[Piece]) -> tuple[Tensor, list[RandomState]]:
    """Return the features [B, D] of all pieces, a leaf that can hold their gradient, and the state before each."""
    parts, states = [], []
    with torch.no_grad():
        for piece in pieces:
            states.append(get_random_state())
            parts.append(piece())
    return torch.cat(parts).requires_grad_(), states


def propagate_gradient(pieces: Sequence[Piece], gradient_BD: Tensor, states: Sequence[RandomState]) -> None:
    """Add to the parameters' gradients what `gradient_BD`, the loss's by the features, is for them.

    states: of `compute_features`. The generators stand afterwards where they stood before.
    """
    current, start = get_random_state(), 0
    for piece, state in zip(pieces, states, strict=True):
        set_random_state(state)
        features_nD = piece()
        torch.autograd.backward(features_nD, gradient_BD[start : start + len(features_nD)])
        start += len(features_nD)
    set_random_state(current)


def get_random_state() -> RandomState:
    """Return where the generators stand."""
    return RandomState(torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None)


def set_random_state(state: RandomState) -> None:
    """Draw again from where `get_random_state` was called."""
    torch.set_rng_state(state.cpu)
    if state.cuda is not None:
        torch.cuda.set_rng_state(state.cuda)


def refuse_batch_norm(towers: nn.Module, setting: str) -> None:
    """Raise UserError where a layer's output for one row depends on the other rows that go through with it.

    setting: what splits the batch, for the message.
    """
    for name, layer in towers.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and any(p.requires_grad for p in layer.parameters()):
            raise UserError(
                f"{setting}: {name} is a BatchNorm: it would normalise each part of the batch by that part's own "
                "mean, so the gradients would not be those of the batch; take a tower without it, freeze this "
                "one, or train whole batches in one process"
            )
