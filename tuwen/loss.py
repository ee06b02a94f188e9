"""Contrastive loss over an image x text matrix, with siblings counted as positives.

Shapes: B pairs, D dimensions; `image_BD` and `text_BD` are unit vectors.
"""

import torch
from torch import Tensor


def same_id(left: Tensor, right: Tensor) -> Tensor:
    """[B] and [C] integer ids -> [B, C] bool, true where they are equal."""
    return left[:, None] == right[None, :]


def contrastive_loss(image_BD: Tensor, text_BD: Tensor, scale: Tensor, positive_BB: Tensor) -> Tensor:
    """Symmetric cross-entropy of CLIP (Radford et al. 2021) against targets shared among siblings.

    scale: the factor before the softmax, 1 / temperature. positive_BB: [B, B] bool, true where row i's picture
    and column j's text belong together; the diagonal is true. With the diagonal alone this is CLIP's loss
    exactly. Returns the mean over both directions, a scalar in float32 (nats).
    """
    logits_BB = scale.float() * image_BD.float() @ text_BD.float().T
    return (_cross_entropy(logits_BB, positive_BB) + _cross_entropy(logits_BB.T, positive_BB.T)) / 2


def _cross_entropy(logits_BB: Tensor, positive_BB: Tensor) -> Tensor:
    target_BB = positive_BB.float()
    target_BB = target_BB / target_BB.sum(1, keepdim=True)
    return -(target_BB * torch.log_softmax(logits_BB, dim=1)).sum(1).mean()
