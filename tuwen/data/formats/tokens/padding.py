"""Texts of several lengths in one batch: how to have little padding, and how attention is told of it.

Shapes: B texts of L tokens. Needs torch alone.
"""

import torch
from torch import Tensor

TEXT_PARTS = 8  # a text is padded to the longest of its eighth of the batch


def group_by_length(lengths_B: Tensor, most: int | None = None) -> tuple[list[tuple[Tensor, int]], Tensor]:
    """Return rows of about one length and the longest of them, group by group, and the order that takes them back.

    All of it is on the CPU. A group has an eighth of the rows, or `most` of them where that is fewer.
    """
    order_B = lengths_B.argsort(stable=True)
    size = -(-len(order_B) // TEXT_PARTS)
    groups = [(rows, int(lengths_B[rows[-1]])) for rows in torch.split(order_B, min(size, most or size))]
    return groups, order_B.argsort()


def make_attention_mask(mask_BL: Tensor, device: torch.device) -> Tensor | None:
    """Return what a BERT's attention takes for a mask: bool [B, 1, 1, L] on `device`; None where it hides nothing.

    transformers asks a mask [B, L] whether it hides anything, and on a GPU that waits for all that is queued. So
    a mask on the CPU is asked here, and one on a GPU is taken as hiding something.
    """
    asked = mask_BL.device.type == "cpu" and not torch.compiler.is_compiling()
    if asked and bool(mask_BL.all()):
        return None
    return mask_BL.bool()[:, None, None].to(device, non_blocking=True)
