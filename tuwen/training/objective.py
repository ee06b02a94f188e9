"""What a training learns by its steps, and the first of them: a dual encoder by its contrastive loss."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch

from tuwen.model.dual_encoder import DualEncoder
from tuwen.training.step import prepare_model, step

if TYPE_CHECKING:  # pyarrow and pydantic are not needed to step on tensors
    from tuwen.core.params import Fit
    from tuwen.training.loader import Batch

EpochRecord = dict[str, float]


class Objective(Protocol):
    """What trainer.py asks of a kind of training; all processes call all of it, in the same order."""

    group: str  # of params.yaml, for messages

    def prepare(self, model: Any) -> None:
        """Move the model to its device and set it and torch up, before the optimizers are made."""

    def take_step(
        self, model: Any, optimizers: list[torch.optim.Optimizer], batch: "Batch", factor: float, done: int
    ) -> float:
        """Take the step after `done` ones on this process's share of a batch; return the loss before it (nats).

        factor: of the peak learning rates. A loss that is not finite comes back as NaN and has moved nothing.
        """

    def describe_epoch(self, model: Any) -> EpochRecord:
        """Return what an epoch's record has beside its loss, and begin the next epoch's."""

    def get_state(self) -> Mapping[str, Any]:
        """Return what the next step depends on beside the model and the optimizers, for a checkpoint."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned."""


class Contrastive:
    """The contrastive loss of a dual encoder, as pre-training and fine-tuning have it."""

    group = "baseline.fit or finetune.fit"

    def __init__(self, fit: "Fit") -> None:
        self._fit = fit

    def prepare(self, model: DualEncoder) -> None:
        """Prepare the model as `step.prepare_model`."""
        prepare_model(model, self._fit)

    def take_step(
        self, model: DualEncoder, optimizers: list[torch.optim.Optimizer], batch: "Batch", factor: float, done: int
    ) -> float:
        """Take a step as `step.step`."""
        return step(model, optimizers, batch, factor, self._fit)

    def describe_epoch(self, model: DualEncoder) -> EpochRecord:
        """Return the temperature."""
        return {"temperature": 1 / model.scale.item()}

    def get_state(self) -> Mapping[str, Any]:
        """Return nothing: all of it is in the model."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""
