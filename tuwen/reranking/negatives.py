"""Hard negatives: texts for images and images for texts that the dual encoder takes for each other.

Shapes: b rows of this process, B rows of all of them, N negatives of a row. Needs torch alone.
"""

import torch
from torch import Tensor


def draw_negatives(logits_bB: Tensor, positive_bB: Tensor, uniform_bN: Tensor) -> Tensor:
    """Return [b, N]: for each row, columns drawn with chances that are the softmax of the row's logits.

    logits_bB: similarities over the temperature. positive_bB: what is never drawn. uniform_bN: numbers in [0, 1)
    that decide the draw, so that processes together draw what one alone does. -1 throughout a row that has nothing
    to draw from. Drawn with replacement; on the CPU and in float64, where sums do not depend on the device.
    """
    logits = logits_bB.detach().double().cpu().masked_fill(positive_bB.cpu(), -torch.inf)
    some_b = ~positive_bB.cpu().all(1)
    logits[~some_b] = 0.0  # any number: what is drawn there is replaced below
    chance_bB = torch.softmax(logits, dim=1)
    upper_bB = chance_bB.cumsum(1)
    # a draw of 1 - 1e-16 can lie above the last sum: the last column that can be drawn takes it
    last_b = upper_bB.shape[1] - 1 - chance_bB.gt(0).flip(1).int().argmax(1)
    drawn_bN = torch.searchsorted(upper_bB, uniform_bN.double().cpu(), right=True).minimum(last_b[:, None])
    return drawn_bN.masked_fill(~some_b[:, None], -1)


def compute_hardness(first: float, last: float, ramp: float, done: int, total: int) -> float:
    """Return by what the logits are multiplied in the step after `done` ones of `total`.

    It goes from `first` to `last` in a line over the share `ramp` of the steps.
    """
    share = min(1.0, done / (ramp * total)) if ramp else 1.0
    return first + (last - first) * share
