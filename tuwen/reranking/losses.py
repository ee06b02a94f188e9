"""What a re-ranker is trained by, as functions of tensors.

A mean is taken over the rows of all processes together: each process divides by its share of their number, so that
the mean of the processes' gradients is the gradient of the mean, however the rows lie.
Shapes: Q pairs to be judged, M tokens or patches that were hidden, V words, C numbers of a patch's feature, R
clusters, b pairs, W width, D dimensions.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tuwen.model.cross_encoder import MATCH

NO_MATCH = 1 - MATCH
CLUSTER_SCALE = 10.0  # before the softmax over clusters: cosines alone would tell them hardly apart
Total = Callable[[Tensor], Tensor]  # the mean of a number over the processes


def compute_match_loss(
    heads: Sequence[Tensor], label_Q: Tensor, counted_Q: Tensor, class_weights: Sequence[float], total: Total
) -> Tensor:
    """Return the mean over the heads of the cross-entropy of their logits [Q, 2]: fine-grained ranking (FGR).

    counted_Q: bool; a pair that is not counted has no part in the loss. class_weights: of no match and match, the
    mean is weighted. Zero where no pair counts.
    """
    weight_Q = torch.tensor(class_weights, device=label_Q.device)[label_Q] * counted_Q
    losses = [functional.cross_entropy(head.float(), label_Q, reduction="none") for head in heads]
    return average_over_counted(torch.stack(losses).mean(0).mul(weight_Q).sum(), weight_Q.sum(), total)


def compute_never_loss(negatives: int, class_weights: Sequence[float]) -> float:
    """Return the match loss of a re-ranker that tells nothing apart, with `negatives` for each positive (nats).

    It gives every pair the share of the positives as its probability: .6365 for one to two, .693 where the class
    weights make both sides equal. A training that has collapsed to "never matches" stays there (BLIP #200, #152).
    """
    no_match, match = negatives * class_weights[NO_MATCH], class_weights[MATCH]
    share = match / (match + no_match)
    return -share * math.log(share) - (1 - share) * math.log(1 - share)


def compute_word_loss(logits_MV: Tensor, word_M: Tensor, total: Total) -> Tensor:
    """Return the mean cross-entropy of the hidden words: masked language modelling (MLM)."""
    loss = functional.cross_entropy(logits_MV.float(), word_M, reduction="sum")
    return average_over_counted(loss, loss.new_tensor(len(word_M)), total)


def compute_feature_loss(predicted_MC: Tensor, feature_MC: Tensor, total: Total) -> Tensor:
    """Return the mean squared distance to the hidden patches' features, in numbers of deviation one (MRFR, L2)."""
    wanted = functional.layer_norm(feature_MC.float(), feature_MC.shape[-1:])
    loss = (predicted_MC.float() - wanted).square().mean(-1).sum()
    return average_over_counted(loss, loss.new_tensor(len(feature_MC)), total)


def compute_cluster_loss(
    predicted_MC: Tensor, feature_MC: Tensor, centre_RC: Tensor, soft: bool, total: Total
) -> Tensor:
    """Return the mean divergence of the clusters of the hidden patches, predicted and true.

    soft: KL from the distribution that the feature itself has over the clusters (MRC-KL); else the cross-entropy
    of the nearest one (MRC). Both read a patch by its cosines to the centres.
    """
    log_predicted = torch.log_softmax(_compare_to_centres(predicted_MC, centre_RC), -1)
    true_MR = _compare_to_centres(feature_MC, centre_RC)
    if soft:
        log_true = torch.log_softmax(true_MR, -1)
        loss = functional.kl_div(log_predicted, log_true, reduction="sum", log_target=True)
    else:
        loss = functional.nll_loss(log_predicted, true_MR.argmax(-1), reduction="sum")
    return average_over_counted(loss, loss.new_tensor(len(feature_MC)), total)


def _compare_to_centres(feature_MC: Tensor, centre_RC: Tensor) -> Tensor:
    wanted = functional.layer_norm(feature_MC.float(), feature_MC.shape[-1:])
    return CLUSTER_SCALE * functional.normalize(wanted, dim=-1) @ functional.normalize(centre_RC, dim=-1).T


def compute_recovery_loss(recovered_bD: Tensor, text_bD: Tensor) -> Tensor:
    """Return the mean of 1 - cosine between what the pair's state says of its text and the text's own vector.

    EDJE's third objective: the state of a joint encoder keeps what the dual encoder knew of the text.
    """
    return (1 - functional.cosine_similarity(recovered_bD.float(), text_bD.float(), dim=-1)).mean()


def average_over_counted(loss: Tensor, count: Tensor, total: Total) -> Tensor:
    """Return this process's sum over the processes' mean count; zero, with a gradient, where none counts."""
    mean = total(count.detach().float())
    return loss / torch.where(mean > 0, mean, torch.ones_like(mean))
