"""Feature-guided distillation of a dual encoder (FgD): a text with hidden words means what the whole text means.

Shapes: b pairs of this process, L positions of a text, D dimensions.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tuwen.model.device import choose_device
from tuwen.training import distributed
from tuwen.training.dataset import make_generator
from tuwen.training.distillation.guidance import Taught
from tuwen.training.distillation.hidden_words import HiddenWords, hide_words
from tuwen.training.loss import compute_guided_loss, cut_prefix

if TYPE_CHECKING:
    from tuwen.core.params import Distil
    from tuwen.training.loader import Batch


class FeatureGuidance:
    """FgD (R2D2, Xie et al. 2022): the student's vectors of masked texts are drawn to the teacher's of whole ones.

    The student has one pass, so that its contrastive loss reads the masked texts too, those of positives and
    negatives alike: [MASK] tells no match.
    """

    def __init__(self, settings: "Distil", words: HiddenWords, seed: int) -> None:
        self._settings, self._words, self._seed = settings, words, seed
        self._sum, self._count = torch.zeros(()), 0  # of the losses of the epoch under way

    def hide(self, batch: "Batch", max_tokens: int, done: int) -> "Batch":
        """Return the batch as the student reads it after `done` steps; with the seed these decide what is hidden.

        max_tokens: of the longest text there may be, since padding is each process's own.
        """
        rows, length = batch.ids.shape
        drawn_b = distributed.draw_rows(rows, max_tokens, make_generator(self._seed, done + 1))
        shown_bL, _ = hide_words(batch.ids, drawn_b[:, :length], self._settings.hidden_share, self._words)
        return batch._replace(ids=shown_bL)

    def compute_loss(self, text_bD: Tensor, taught: Taught) -> Tensor:
        """Return the weighted loss of the student's vectors; of first dimensions against those of the teacher.

        A unit vector's numbers are so small that its softmax is all but even. Multiplied by the root of D, their
        mean square is one, as of the [CLS] state behind a LayerNorm that R2D2 compares.
        """
        factor, teacher_bD = math.sqrt(text_bD.shape[1]), cut_prefix(taught.text, text_bD.shape[1])
        loss = compute_guided_loss(factor * text_bD, factor * teacher_bD)
        self._sum, self._count = self._sum + loss.detach(), self._count + 1
        return self._settings.fgd * loss

    def describe_epoch(self) -> dict[str, float]:
        """Return the mean loss of an epoch, without its weight, and begin the next one."""
        mean = distributed.average_over_ranks(self._sum / max(1, self._count)).item()
        self._sum, self._count = torch.zeros(()), 0
        return {"fgd": mean}

    def get_state(self) -> Mapping[str, Any]:
        """Return what the epoch's record depends on."""
        return {"sum": self._sum, "count": self._count}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        self._sum, self._count = state["sum"].to(choose_device()), state["count"]
