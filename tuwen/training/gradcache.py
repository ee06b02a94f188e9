"""Contrastive gradients of a batch whose activations do not fit in memory (Gao et al. 2021, "GradCache").

The features are computed piece by piece without a graph, the loss gives each feature its gradient, and every piece
is computed once more to carry its part back. Each piece draws the same dropout both times: its random state is
restored, or the gradients would belong to features that the loss never saw.
Shapes: n rows of a piece, B rows of all pieces, D dimensions.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tuwen.core.errors import UserError
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training.engines.replicas import GradientEngine

Piece = Callable[[], Tensor]  # computes the features [n, D] of some rows


class RandomState(NamedTuple):
    """What dropout draws from: the CPU's generator, and the GPU's where there is one."""

    cpu: Tensor
    cuda: Tensor | None


class _Part(NamedTuple):
    """A piece, the random state before it was computed first, and its rows of the features."""

    piece: Piece
    state: RandomState
    rows: slice

    def compute_again(self) -> Tensor:
        """Return the features [n, D] with a graph, of the same draws as before."""
        set_random_state(self.state)
        return self.piece()


class Cached(NamedTuple):
    """The features [B, D] of all pieces of a tower, a leaf that can hold their gradient, and the pieces."""

    feature: Tensor
    parts: list[_Part]

    def get_gradient(self, part: _Part) -> Tensor:
        """Return the loss's gradient [n, D] by the features of a part."""
        assert self.feature.grad is not None
        return self.feature.grad[part.rows]


def compute_features(pieces: Sequence[Piece], engine: GradientEngine) -> Cached:
    """Compute the features of all pieces of a tower without a graph."""
    features, parts, start = [], [], 0
    with torch.no_grad():
        for piece in pieces:
            state = get_random_state()
            features.append(engine.run(piece))
            parts.append(_Part(piece, state, slice(start, start + len(features[-1]))))
            start += len(features[-1])
    return Cached(torch.cat(features).requires_grad_(), parts)


def propagate_gradients(towers: Sequence[Cached], engine: GradientEngine) -> None:
    """Add to the parameters' gradients what those of the features are for them.

    Each piece has a backward pass of its own, but the last ones of the towers share one, in which the processes
    average what all of them added up. The generators stand afterwards where they stood before.
    """
    current = get_random_state()
    with engine.hold():
        for tower in towers:
            for part in tower.parts[:-1]:
                torch.autograd.backward(engine.run(part.compute_again), tower.get_gradient(part))
    features = engine.run(lambda: tuple(tower.parts[-1].compute_again() for tower in towers))
    torch.autograd.backward(features, [tower.get_gradient(tower.parts[-1]) for tower in towers])
    set_random_state(current)


def get_random_state() -> RandomState:
    """Return where the generators stand."""
    return RandomState(torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None)


def set_random_state(state: RandomState) -> None:
    """Draw again from where `get_random_state` was called."""
    torch.set_rng_state(state.cpu)
    if state.cuda is not None:
        torch.cuda.set_rng_state(state.cuda)


def compile_towers(model: DualEncoder, chunk: int | None) -> None:
    """Let torch compile both towers; with `chunk` a part draws the same dropout both times, compiled or not.

    Raises UserError on a CPU without a C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")  # which torch takes
    if choose_device() == "cpu" and not shutil.which(compiler):
        raise UserError(
            f"params.yaml: baseline.fit or finetune.fit: compile: true needs a C++ compiler on a CPU; {compiler} "
            "is not here: install it, or set compile: false"
        )
    # the first time, without a graph, and the second one are compiled apart, and a shape too many is not compiled:
    # kernels with draws of their own would then give gradients of features that the loss never saw
    options: dict[str, Any] = {"fallback_random": True} if chunk else {}
    for tower in (model.image_tower, model.text_tower):
        tower.compile(options=options)


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
