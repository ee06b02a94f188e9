"""What a training learns by its steps, and those of a dual encoder: from the pairs, and from a momentum teacher.

Shapes: b pairs of this process, B of all processes, D dimensions.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.towers import stop_patch_dropout
from tuwen.training.distillation.guidance import Guidance, Taught
from tuwen.training.engines.loss_scale import LossScale
from tuwen.training.engines.replicas import GradientEngine
from tuwen.training.negatives.alike import Alike, copy_start, embed_batch, find_alike
from tuwen.training.optim import Teacher
from tuwen.training.step import (
    clamp_temperature,
    compute_gradients,
    move_weights,
    prepare_model,
    step,
)

if TYPE_CHECKING:  # pyarrow and pydantic are not needed to step on tensors
    from tuwen.core.params import Fit
    from tuwen.training.distillation.features import FeatureGuidance
    from tuwen.training.loader import Batch

EpochRecord = dict[str, float]


class Objective(Protocol):
    """What trainer.py asks of a kind of training; all processes call all of it, in the same order."""

    group: str  # of params.yaml, for messages

    def prepare(self, model: Any, steps_per_epoch: int) -> None:
        """Move the model to its device and set it and torch up, before the optimizers are made."""

    def take_step(
        self, model: Any, optimizers: list[torch.optim.Optimizer], batch: Any, factor: float, done: int
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
    """The contrastive loss of a dual encoder, as pre-training and fine-tuning have it; with `fit.distil` TgD.

    features: FgD beside it; needed where `fit.distil.fgd` is above 0.
    """

    group = "baseline.fit or finetune.fit"

    def __init__(self, fit: "Fit", features: "FeatureGuidance | None" = None) -> None:
        assert (features is not None) == bool(fit.distil and fit.distil.fgd)
        self._fit, self._features = fit, features
        self._teacher: Teacher | None = None
        self._guidance: Guidance | None = None
        self._start: Any = None
        self._engine: GradientEngine | None = None
        self._scale = LossScale(fit.precision)
        self._all_patches_from = math.inf  # steps done

    def prepare(self, model: DualEncoder, steps_per_epoch: int) -> None:
        """Prepare the model as `step.prepare_model`, and begin the teacher and its queue."""
        distil, self._start = self._fit.distil, copy_start(model, self._fit)
        if distil:
            self._teacher = Teacher(model, distil.momentum)  # before compiling, which a copy could not follow
            self._guidance = Guidance(distil, model.config["dim"], steps_per_epoch)
            self._teacher.model.to(choose_device())
        if self._fit.all_patches_epochs:
            self._all_patches_from = (self._fit.epochs - self._fit.all_patches_epochs) * steps_per_epoch
        self._engine = prepare_model(model, self._fit)

    def take_step(
        self, model: DualEncoder, optimizers: list[torch.optim.Optimizer], batch: "Batch", factor: float, done: int
    ) -> float:
        """Take a step as `step.step`; the teacher and the queue follow."""
        if done >= self._all_patches_from:
            stop_patch_dropout(model.image_tower)
            self._all_patches_from = math.inf
        if self._teacher is None or self._guidance is None:
            alike = self._start and self._find_alike(batch)
            return step(model, optimizers, batch, factor, self._fit, self._engine, self._scale, alike)
        compare = partial(self._compare, model, taught := self._teach(batch), done)
        if self._features:
            batch = self._features.hide(batch, model.config["text"]["max_tokens"], done)
        loss = compute_gradients(model, batch, self._fit, compare, self._engine, self._scale)
        value = move_weights(model, optimizers, loss, factor, self._fit, self._scale)
        clamp_temperature(model)
        if value == value:  # not NaN
            self._teacher.update(model)
            self._guidance.put(taught)
        return value

    def _find_alike(self, batch: "Batch") -> Alike:
        return find_alike(*embed_batch(self._start, batch, self._fit), self._fit.mask_margin or 0.0)

    def _teach(self, batch: "Batch") -> Taught:
        assert self._teacher
        ids_b2 = torch.stack([batch.positive_id, batch.caption_id], dim=1).to(choose_device())
        return Taught(*embed_batch(self._teacher.model, batch, self._fit), ids_b2)

    def _compare(
        self, model: DualEncoder, taught: Taught, done: int, image_bD: Tensor, text_bD: Tensor, positive_bB: Tensor
    ) -> Tensor:
        assert self._guidance
        siblings = self._fit.siblings != "negatives"
        loss = self._guidance.compute_loss(
            taught, image_bD, text_bD, positive_bB, model.scale, done, siblings=siblings
        )
        return loss + self._features.compute_loss(text_bD, taught) if self._features else loss

    def describe_epoch(self, model: DualEncoder) -> EpochRecord:
        """Return the temperature; of a queue how many pairs it is worth, the sum of their weights; FgD's loss."""
        record = {"temperature": 1 / model.scale.item()} | (self._guidance.describe() if self._guidance else {})
        return record | (self._features.describe_epoch() if self._features else {})

    def get_state(self) -> Mapping[str, Any]:
        """Return the factor of the loss, the teacher and the queue, and what FgD's record depends on."""
        state = {"loss_scale": self._scale.get_state()}
        if self._features:
            state |= {"features": self._features.get_state()}
        if self._teacher is None or self._guidance is None:
            return state
        return state | {"teacher": self._teacher.model.state_dict(), "queue": self._guidance.queue.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        self._scale.set_state(state["loss_scale"])
        if self._teacher and self._guidance:
            self._teacher.model.load_state_dict(state["teacher"])
            self._guidance.queue.set_state(state["queue"])
        if self._features:
            self._features.set_state(state["features"])
