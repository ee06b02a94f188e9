"""QB-Norm: scores corrected for hubs, the items that too many queries find, by a bank of training queries.

Bogolin et al., Cross Modal Retrieval with Querybank Normalisation, CVPR 2022: a query q scores item g by the
inverted softmax exp(β s(q, g)) / Σ_b exp(β s(b, g)) over the queries b of a bank. Its logarithm over β is
s(q, g) - bias(g), with bias(g) = log Σ_b exp(β s(b, g)) / β, so it ranks as a dot product with one dimension more
does, which exact search answers like any other. The bank is of train: no query that is measured or answered takes
part in it. The dynamic form corrects a query only where the item that it would find first is one that some query
of the bank finds first too.

Shapes: Q queries, G gallery items, B bank queries, D dimensions, k answers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from tuwen.retrieval.metrics import compute_hits, judge_answers
from tuwen.retrieval.search import top_k, top_k_both
from tuwen.retrieval.vectors import Flags, RetrievalTask, Rows, Vectors

BETAS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)  # inverse temperatures to choose from; the paper's is 20
CHOOSING_K = 5  # the headline
TILE = 2048  # bank queries and gallery items whose scores are held at once (16 MB)


class Correction(NamedTuple):
    """What a bank does to the scores of each gallery item."""

    bias: Vectors  # [G] float32, taken off its scores
    active: Flags  # [G] some query of the bank finds it first


def compute_correction(bank: Vectors, gallery: Vectors, beta: float) -> Correction:
    """Return the correction of `gallery` [G, D] by the queries `bank` [B, D] at the inverse temperature `beta`."""
    return Correction(compute_biases(bank, gallery, [beta])[0], find_active(bank, gallery))


def compute_biases(bank: Vectors, gallery: Vectors, betas: Sequence[float]) -> Vectors:
    """Return log Σ_b exp(β s(b, g)) / β for each β, [len(betas), G] float32, less its mean over the gallery.

    A constant changes no order, and small numbers keep more digits. At most TILE² scores are held at once.
    """
    total = torch.full((len(betas), len(gallery)), -torch.inf, dtype=torch.float64)
    bank_DB, gallery_GD = torch.from_numpy(bank).T, torch.from_numpy(gallery)
    for start in range(0, len(gallery), TILE):
        for first in range(0, len(bank), TILE):
            tile_GB = gallery_GD[start : start + TILE] @ bank_DB[:, first : first + TILE]
            for row, beta in enumerate(betas):
                part_G = torch.logsumexp(tile_GB * beta, dim=1).double()
                so_far_G = total[row, start : start + TILE]
                torch.logaddexp(so_far_G, part_G, out=so_far_G)
    bias = (total / torch.tensor(betas, dtype=torch.float64)[:, None]).numpy()
    return np.asarray(bias - bias.mean(axis=1, keepdims=True), np.float32)


def choose_beta(bank: Vectors, task: RetrievalTask) -> float:
    """Return the one of BETAS with the best hit@5 on a task that is not reported on; of equal ones the least.

    bank [B, D]: queries of train; the task's gallery has at least five items.
    """
    plain, _ = top_k(task.queries, task.gallery, CHOOSING_K)
    active = find_active(bank, task.gallery)
    hits = []
    for bias in compute_biases(bank, task.gallery, BETAS):
        answers = answer_corrected(task.queries, task.gallery, plain, Correction(bias, active))
        hits.append(compute_hits(judge_answers(task, answers, [CHOOSING_K]), [CHOOSING_K]).mean())
    return BETAS[int(np.argmax(hits))]


def find_active(bank: Vectors, gallery: Vectors) -> Flags:
    """Return which gallery items [G] are the first answer to some query of the bank: QB-Norm's activation set."""
    first, _ = top_k(bank, gallery, 1)
    active = np.zeros(len(gallery), np.bool_)
    active[first[:, 0]] = True
    return active


def extend_vectors(queries: Vectors, gallery: Vectors, bias: Vectors) -> tuple[Vectors, Vectors]:
    """Return vectors of one dimension more, whose dot products are those of the given ones less `bias` [G]."""
    return (
        np.column_stack([queries, np.ones(len(queries), np.float32)]),
        np.column_stack([gallery, -bias]),
    )


def choose_dynamic(plain: Rows, corrected: Rows, active: Flags) -> Rows:
    """Return the answers [Q, k] by the dynamic form: the corrected ones where the first plain answer is active."""
    return np.asarray(np.where(active[plain[:, :1]], corrected, plain))


def answer_corrected(queries: Vectors, gallery: Vectors, plain: Rows, correction: Correction) -> Rows:
    """Return the first k gallery rows per query by QB-Norm, [Q, k]; plain [Q, k]: by the uncorrected score."""
    corrected, _ = top_k(*extend_vectors(queries, gallery, correction.bias), plain.shape[1])
    return choose_dynamic(plain, corrected, correction.active)


def find_first_answers(images: Vectors, texts: Vectors, k: int) -> dict[str, Rows]:
    """Return the first k gallery rows per query in both directions, t2i and i2t, in one pass."""
    (i2t, _), (t2i, _) = top_k_both(images, texts, k)
    return {"t2i": t2i, "i2t": i2t}


def answer_both_corrected(
    images: Vectors, texts: Vectors, plain: dict[str, Rows], corrections: dict[str, Correction]
) -> dict[str, Rows]:
    """`answer_corrected` in both directions; plain and corrections by direction, t2i and i2t.

    Both biases can stand in the same vectors, since a query's own bias changes none of its ranks.
    """
    texts, images = extend_vectors(texts, images, corrections["t2i"].bias)
    images, texts = extend_vectors(images, texts, corrections["i2t"].bias)
    corrected = find_first_answers(images, texts, plain["t2i"].shape[1])
    return {name: choose_dynamic(plain[name], corrected[name], corrections[name].active) for name in corrections}
