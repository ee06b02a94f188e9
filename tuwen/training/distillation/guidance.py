"""Target-guided distillation (TgD): what a teacher thinks of a batch's pairs, and of earlier ones in a queue.

Shapes: b pairs of this process, B of all processes, Q of the queue, N of both, D dimensions.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tuwen.training import distributed
from tuwen.training.loss import Compared, compare_ids, compute_distilled_loss, cut_prefix
from tuwen.training.negatives.vector_queue import VectorQueue

if TYPE_CHECKING:  # pydantic is not needed to step on tensors
    from tuwen.core.params import SoftTargets


class Taught(NamedTuple):
    """A momentum teacher's vectors [b, D] of this process's images and texts, and their ids [b, 2]."""

    image: Tensor
    text: Tensor
    ids: Tensor  # positive_id and caption_id


class Guidance:
    """Target-guided distillation (TgD, R2D2): a teacher's vectors as soft targets, a queue of earlier ones too."""

    def __init__(self, settings: "SoftTargets", dim: int, ramp_steps: int) -> None:
        self._alpha, self._ramp_steps = settings.alpha, ramp_steps
        self.queue = VectorQueue(settings.queue, dim, settings.half_life)

    def compute_loss(
        self,
        taught: Taught,
        image_bD: Tensor,
        text_bD: Tensor,
        positive_bB: Tensor,
        scale: Tensor,
        done: int,
        *,
        siblings: bool = True,
    ) -> Tensor:
        """Return the mean loss of this process's rows after `done` steps, against all processes' and the queue.

        positive_bB: which rows of the batch fit each row. siblings: whether rows of the queue can be positives.
        """
        dim = image_bD.shape[1]  # under that of the teacher where a prefix is compared (loss.nest_loss)
        queue, ids_b2 = self.queue.read().cut(dim), taught.ids
        teacher_image_bD, teacher_text_bD = cut_prefix(taught.image, dim), cut_prefix(taught.text, dim)
        new, old = (image_bD, text_bD, teacher_image_bD, teacher_text_bD), (queue.image, queue.text) * 2
        image, text, teacher_image, teacher_text = (
            torch.cat([distributed.gather_rows(rows), earlier]) for rows, earlier in zip(new, old, strict=True)
        )
        weight_N = torch.cat([queue.weight.new_ones(positive_bB.shape[1]), queue.weight])
        again_bQ = compare_ids(ids_b2[:, 0], queue.ids[:, 0]) | compare_ids(ids_b2[:, 1], queue.ids[:, 1])
        return compute_distilled_loss(
            image_bD,
            text_bD,
            teacher_image_bD,
            teacher_text_bD,
            Compared(image, text, teacher_image, teacher_text, weight_N),
            torch.cat([positive_bB, again_bQ & siblings], dim=1),
            scale,
            self._alpha * min(1.0, done / self._ramp_steps),
        )

    def put(self, taught: Taught) -> None:
        """Take all processes' rows into the queue."""
        self.queue.put(*(distributed.gather_rows(rows) for rows in taught))

    def describe(self) -> dict[str, float]:
        """Return how many pairs the queue is worth, the sum of their weights."""
        return {"queue_size": self.queue.read().weight.sum().item()}
