"""What the steps of a training move: weights, optimizers and the average of the weights, whole or in shares.

In shares, what is trained is a copy; the model that the caller gave is then measured, chosen from and written.
"""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from tuwen.model.device import choose_device
from tuwen.training import distributed, optim
from tuwen.training.checkpoint import Checkpoint
from tuwen.training.engines import states

if TYPE_CHECKING:  # pydantic is not needed to step on tensors
    from tuwen.core.params import Loop

Trained = TypeVar("Trained", bound=nn.Module)


def copy_to_shard(model: Trained, fit: "Loop") -> Trained:
    """Return the model that is trained: a copy where its shares will lie in several processes, else `model`."""
    return copy.deepcopy(model) if has_shares(fit) and distributed.count_ranks() > 1 else model


def has_shares(fit: "Loop") -> bool:
    """Return whether `fit` is for a model in shares; one process alone has a single one, the whole."""
    return getattr(fit, "shard", "none") == "full"  # of a Fit alone


class Weights:
    """The model that is trained, its optimizers and average; `whole` is `model` unless its shares are dealt."""

    def __init__(self, model: nn.Module, whole: nn.Module, fit: "Loop") -> None:
        self.model, self.whole = model, whole
        self._in_shares = has_shares(fit)
        self.optimizers = optim.make_optimizers(model, fit)
        self.ema = optim.Ema(model, fit.ema) if fit.ema is not None else None

    def expose(self, ema: bool) -> AbstractContextManager[None]:
        """Give the whole model the weights, or their average, inside the block. All processes call this."""
        average = self.ema if ema else None
        if self.whole is not self.model:
            return states.use_state(average.weights if average else self.model.state_dict(), self.whole)
        return average.apply_to(self.model) if average else nullcontext()

    def finish(self) -> None:
        """Have whole weights from here on, in the first process. All processes call this."""
        if self.whole is self.model:
            return
        last = states.gather_state(self.model.state_dict())
        average = states.gather_state(self.ema.weights if self.ema else {})
        if distributed.is_first():
            self.whole.load_state_dict(last)
            self.model = self.whole.to(choose_device())
            if self.ema is not None:
                self.ema.weights = {name: value.to(choose_device()) for name, value in average.items()}

    def save(self, checkpoint: Checkpoint, done: int, state: Mapping[str, Any]) -> None:
        """Write all this after `done` steps, and `state` beside it. All processes call this."""
        average = self.ema.weights if self.ema else None
        if not self._in_shares:
            tensors = {"model": self.model.state_dict(), "ema": average}
            checkpoint.save({**tensors, "optimizers": [one.state_dict() for one in self.optimizers], **state})
            return
        shares = f"shares-{done}"
        if checkpoint.write_together(
            shares, lambda part: states.save_shares(part, self.model, self.optimizers, average)
        ) and checkpoint.save({"shares": shares, **state}):  # else the old state still names the old shares
            checkpoint.remove_others("shares-*", shares)

    def resume(self, checkpoint: Checkpoint, state: Mapping[str, Any]) -> None:
        """Go on from what `save` wrote. All processes call this."""
        if "shares" in state:
            average = self.ema.weights if self.ema else None
            states.load_shares(checkpoint.folder / state["shares"], self.model, self.optimizers, average)
            return
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.ema is not None:
            self.ema.weights = {name: value.to(choose_device()) for name, value in state["ema"].items()}
