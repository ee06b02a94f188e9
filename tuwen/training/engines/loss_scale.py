"""What keeps fp16 gradients above zero: a loss that is multiplied, and gradients that are divided again.

(Micikevicius et al. 2018, "Mixed precision training", section 3.2.) torch's GradScaler looks at the gradients of
one process; of a model in shares each process has others, and all must leave out a step together.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tuwen.model.precision import choose_precision
from tuwen.training.engines.local import get_local

FIRST_FACTOR, LEAST_FACTOR, GROW_AFTER = 2.0**16, 1.0, 2000  # powers of two: they change no digit of a gradient


class LossScale:
    """The factor of the loss: it halves where a gradient overflows and doubles after GROW_AFTER good steps.

    In bf16 and fp32 it is 1, for good.
    """

    def __init__(self, precision: str) -> None:
        self._scales = choose_precision(precision) == "fp16"
        self._factor, self._good = FIRST_FACTOR if self._scales else 1.0, 0

    def multiply(self, loss: Tensor) -> Tensor:
        """Return what the backward pass begins with."""
        return loss * self._factor if self._scales else loss

    def divide_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give the gradients of the multiplied loss the size of the loss's own."""
        if self._scales:
            gradients = [get_local(one.grad) for one in parameters if one.grad is not None]
            torch._foreach_mul_(gradients, 1 / self._factor)

    def follow(self, length: float) -> bool:
        """Take in how long a step's gradient was, over all processes; return whether it is only an overflow.

        Then the step is left out, and the next one has half of the factor.
        """
        if not self._scales:
            return False
        if math.isfinite(length):
            self._good += 1
            if self._good == GROW_AFTER:
                self._factor, self._good = 2 * self._factor, 0
            return False
        self._factor, self._good = self._factor / 2, 0
        return self._factor >= LEAST_FACTOR

    def get_state(self) -> Mapping[str, Any]:
        """Return what the next step depends on, for a checkpoint."""
        return {"factor": self._factor, "good": self._good}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        if self._scales:
            self._factor, self._good = state["factor"], state["good"]
