"""The contrastive loss where the projections alone are trained, over what frozen towers pooled.

Shapes: b pairs of this process, B of all processes, F and W what the towers pooled.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder, require_projections
from tuwen.training import distributed
from tuwen.training.engines.replicas import Alone, GradientEngine
from tuwen.training.loss import nest_loss
from tuwen.training.negatives.alike import Alike, copy_start, find_alike
from tuwen.training.objective import EpochRecord
from tuwen.training.step import clamp_temperature, compare_rows, find_positives, move_weights, prepare_model

if TYPE_CHECKING:  # pydantic is not needed to step on tensors
    from tuwen.core.params import Fit
    from tuwen.training.frozen.pooled_views import PooledBatch


class Projections:
    """An Objective (objective.py) for batches of PooledViews; `fit.freeze` is towers."""

    group = "baseline.fit or finetune.fit"

    def __init__(self, fit: "Fit") -> None:
        self._fit = fit
        self._engine: GradientEngine = Alone()
        self._start: Any = None

    def prepare(self, model: DualEncoder, steps_per_epoch: int) -> None:
        """Prepare the model as `step.prepare_model`. Raises UserError for a model without projections."""
        require_projections(model, f"{self.group}: freeze: {self._fit.freeze}")
        self._start = copy_start(model, self._fit)
        self._engine = prepare_model(model, self._fit)

    def take_step(
        self,
        model: DualEncoder,
        optimizers: list[torch.optim.Optimizer],
        batch: "PooledBatch",
        factor: float,
        done: int,
    ) -> float:
        """Move the projections and the temperature by the loss of the batch; otherwise as `step.step`."""
        image, text, positive_id, caption_id = (column.to(choose_device()) for column in batch[:4])
        positive_bB = find_positives(torch.stack([positive_id, caption_id], dim=1), self._fit.siblings)
        alike = self._find_alike(image, text)

        def compare() -> Tensor:
            compare_all = nest_loss(partial(compare_rows, model, alike=alike), self._fit.matryoshka)
            return compare_all(model.project_image(image), model.project_text(text), positive_bB)

        loss = self._engine.run(compare)
        torch.autograd.backward(loss)
        self._engine.finish_gradients()
        mean = distributed.average_over_ranks(loss.detach())
        value = move_weights(model, optimizers, mean, factor, self._fit)
        clamp_temperature(model)
        return value

    @torch.no_grad()
    def _find_alike(self, image_bF: Tensor, text_bW: Tensor) -> Alike | None:
        if self._start is None:
            return None
        vectors = self._start.project_image(image_bF), self._start.project_text(text_bW)
        return find_alike(*vectors, self._fit.mask_margin or 0.0)

    def describe_epoch(self, model: DualEncoder) -> EpochRecord:
        """Return the temperature."""
        return {"temperature": 1 / model.scale.item()}

    def get_state(self) -> Mapping[str, Any]:
        """Return nothing: a step depends on the model and the optimizers alone."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take nothing over."""
