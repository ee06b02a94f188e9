"""Contrastive loss over the matrix of images and texts, with siblings counted as positives. Needs torch alone.

Shapes: B pairs, C pairs of all processes (C = B where there is one), D dimensions; vectors are unit vectors.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tuwen.core.errors import UserError

# of the vectors [b, D] of images and texts, and [b, B], which rows of all processes are positives
LossOfVectors = Callable[[Tensor, Tensor, Tensor], Tensor]

NOWHERE = -1e9  # a logit whose exponential is 0 beside any other; finite, since its target of 0 multiplies it


def compare_ids(left_B: Tensor, right_C: Tensor) -> Tensor:
    """Return bool [B, C], true where the integer ids [B] and [C] are equal."""
    return left_B[:, None] == right_C[None, :]


def compute_contrastive_loss(
    image_BD: Tensor,
    text_BD: Tensor,
    scale: Tensor,
    positive_BC: Tensor,
    image_CD: Tensor | None = None,
    text_CD: Tensor | None = None,
    left_out: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return CLIP's symmetric cross-entropy (Radford et al. 2021), its targets shared among siblings.

    scale: the factor before the softmax, 1 / temperature. positive_BC: [B, C] bool, true where pair i and pair j
    of all belong together, i's image with j's text and i's text with j's image; i with itself at least. With that
    alone this is CLIP's loss exactly. image_CD, text_CD: the images and texts that the B pairs are compared
    with, themselves included; by default the B pairs alone. left_out: bool [B, C], texts that are no negatives of
    each image, and images that are none of each text; a positive stays one. Returns the mean over both directions,
    a scalar in float32 (nats).

    Not the form that the contest's source prints, whose denominator lacks the positive: it is unbounded below.
    """
    if image_CD is None or text_CD is None:
        image_to_text_BC = scale.float() * image_BD.float() @ text_BD.float().T
        text_to_image_BC, back_BC = image_to_text_BC.T, positive_BC.T
    else:
        image_to_text_BC = scale.float() * image_BD.float() @ text_CD.float().T
        text_to_image_BC, back_BC = scale.float() * text_BD.float() @ image_CD.float().T, positive_BC
    if left_out is not None:
        image_to_text_BC = image_to_text_BC.masked_fill(left_out[0] & ~positive_BC, NOWHERE)
        text_to_image_BC = text_to_image_BC.masked_fill(left_out[1] & ~back_BC, NOWHERE)
    return (_cross_entropy(image_to_text_BC, positive_BC) + _cross_entropy(text_to_image_BC, back_BC)) / 2


def compute_sigmoid_loss(
    image_BD: Tensor,
    text_CD: Tensor,
    scale: Tensor,
    bias: Tensor,
    positive_BC: Tensor,
    left_out_BC: Tensor | None = None,
) -> Tensor:
    """Return SigLIP's loss (Zhai et al. 2023, equation 1): each pair for itself, right or wrong.

    bias: is added to every logit. text_CD: of all processes, whose texts the B images are compared with; the
    mean of their losses is that of the batch. positive_BC: [B, C] bool, true where image and text belong
    together; siblings are then pairs like any other. left_out_BC: bool, pairs that count for nothing unless they
    belong together. Returns a scalar in float32 (nats).
    """
    logits_BC = scale.float() * image_BD.float() @ text_CD.float().T + bias.float()
    sign_BC = 2.0 * positive_BC.float() - 1.0
    losses_BC = -nn.functional.logsigmoid(sign_BC * logits_BC)
    if left_out_BC is not None:
        losses_BC = losses_BC.masked_fill(left_out_BC & ~positive_BC, 0.0)
    return losses_BC.sum(1).mean()


def cut_prefix(vectors_BD: Tensor, dim: int) -> Tensor:
    """Return the first `dim` dimensions of unit vectors [B, D], each row of length 1 again; all D as they are."""
    return vectors_BD if dim == vectors_BD.shape[1] else nn.functional.normalize(vectors_BD[:, :dim], dim=-1)


def require_prefixes(dims: Sequence[int], model: Any) -> None:
    """Raise UserError unless all `dims` of a fit's matryoshka lie under the dimensions of the model."""
    if dims and max(dims) >= model.config["dim"]:
        raise UserError(
            f"params.yaml: baseline.fit or finetune.fit: matryoshka: must lie under {model.config['dim']}, the "
            f"dimensions of this model, got {max(dims)}"
        )


def nest_loss(compute_loss: LossOfVectors, dims: Sequence[int]) -> LossOfVectors:
    """Return the mean of a loss over the whole vectors and over their first `dims` dimensions; none: that loss.

    Matryoshka representation learning (Kusupati et al. 2022), whose weights are equal too. A mean, not a sum, so
    that learning rates need no change.
    """

    def compute(image_bD: Tensor, text_bD: Tensor, positive_bB: Tensor) -> Tensor:
        nested = [image_bD.shape[1], *dims]
        losses = [compute_loss(cut_prefix(image_bD, dim), cut_prefix(text_bD, dim), positive_bB) for dim in nested]
        return torch.stack(losses).mean()

    return compute if dims else compute_loss


class Compared(NamedTuple):
    """What each row is compared with: N rows of all processes and of a queue, the student's and the teacher's."""

    image: Tensor  # [N, D]
    text: Tensor  # [N, D]
    teacher_image: Tensor  # [N, D]
    teacher_text: Tensor  # [N, D]
    weight: Tensor  # [N] of each in the denominators and among the positives


def compute_distilled_loss(
    image_BD: Tensor,
    text_BD: Tensor,
    teacher_image_BD: Tensor,
    teacher_text_BD: Tensor,
    candidates: Compared,
    positive_BN: Tensor,
    scale: Tensor,
    alpha: float,
) -> Tensor:
    """Return the symmetric cross-entropy against alpha x the teacher's softmax + (1 - alpha) x the positives.

    Target-guided distillation (TgD) of R2D2 (Xie et al. 2022). With alpha 0 and no queue it is
    `compute_contrastive_loss`. The weights stand before the exponentials, so that one of 0 is as if it were not
    there.
    """
    log_weight_N = candidates.weight.log()
    target_BN = positive_BN.float() * candidates.weight
    target_BN = target_BN / target_BN.sum(1, keepdim=True)
    losses = []
    for own_BD, other_ND, teacher_BD, teacher_ND in (
        (image_BD, candidates.text, teacher_image_BD, candidates.teacher_text),
        (text_BD, candidates.image, teacher_text_BD, candidates.teacher_image),
    ):
        logits_BN = scale.float() * own_BD.float() @ other_ND.float().T + log_weight_N
        soft_BN = torch.softmax(
            scale.detach().float() * teacher_BD.float() @ teacher_ND.float().T + log_weight_N, 1
        )
        mixed_BN = alpha * soft_BN + (1 - alpha) * target_BN if alpha else target_BN
        losses.append(-(mixed_BN * torch.log_softmax(logits_BN, dim=1)).sum(1).mean())
    return torch.stack(losses).mean()


def compute_guided_loss(student_BW: Tensor, teacher_BW: Tensor) -> Tensor:
    """Return the mean cross-entropy of the student's softmaxed features [B, W] to the teacher's (FgD, R2D2)."""
    target_BW = torch.softmax(teacher_BW.float(), -1)
    return -(target_BW * torch.log_softmax(student_BW.float(), -1)).sum(-1).mean()


def _cross_entropy(logits_BC: Tensor, positive_BC: Tensor) -> Tensor:
    target_BC = positive_BC.float()
    target_BC = target_BC / target_BC.sum(1, keepdim=True)
    return -(target_BC * torch.log_softmax(logits_BC, dim=1)).sum(1).mean()
