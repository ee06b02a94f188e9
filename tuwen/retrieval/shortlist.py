"""Which items can be among a query's first k: one pass over the scores in low precision, with its proof.

The pass multiplies tiles of the score matrix and keeps of every tile only the largest score of each group of
GROUP items, for both directions: the tile is reduced along its rows and along its columns while it is in the
cache. Where a query's k-th largest group lies so far above a group that no rounding can account for it, none of
the latter's items is among the first k. The items of all other groups are multiplied again in float32. How many
those are follows from the scores themselves: about 20 groups of a query among independent vectors, as many as
there are copies among near-copies, all of them where low precision tells nothing apart.

The bound. Let x, y be the vectors, x', y' what they are rounded to, p the computed product of x' and y', and r the
number that p is stored as. Then |xy - r| <= e + c|r| with

    e = |x - x'| |y| + |x'| |y - y'|   Cauchy and Schwarz; the residuals are measured, vector by vector
      + (D + 16) 2^-22 |x'| |y'|       summed in float32 in any order, |x'y' - p| <= D u / (1 - D u) |x'| |y'| with
                                       u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2002,
                                       eq. 3.5); four times that covers units that cut off instead of rounding,
                                       and the rounding of the thresholds and of the float64 score itself
      + (D + 16) 2^-100                whatever is flushed to zero below 2^-126 (bf16 units do so)
    c = 2^-8                           storing p as bf16, whichever way it is rounded; 0 where it stays float32

with the largest |y| and |y - y'| of the gallery. k groups have a maximum of at least r_k, the k-th largest, so k
items have a score of at least L = r_k - e - c|r_k|, and an item with r + e + c|r| < L is not among the first k.
The same with |x - x'| = |y - y'| = c = 0, and half of the third line, bounds the float32 product.

Shapes: I images, T texts, D dimensions; of one direction: Q queries, N groups of its gallery, B queries at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

GROUP = 32  # items; larger: fewer maxima to keep, more items to multiply again
TILE_SCORES = 1 << 22  # scores held at once: they stay in the cache for the two reductions
TILE_TEXTS = 1 << 13
CHUNK_MAXIMA = 1 << 22  # group maxima compared with their thresholds at once
BATCH_GROUPS = 1 << 18  # (query, group) pairs multiplied again before the caller gets them
STORED = 2.0**-8  # c
SPAN = 16  # vectors whose largest value lies within 2^-SPAN and 2^SPAN are multiplied as they are


class Rounded(NamedTuple):
    """Images or texts: their vectors, and what rounding takes from them."""

    full: Tensor  # [N, D] float32, the vectors times 2^-exponent
    low: Tensor  # [N, D] in the precision of the pass
    length: Tensor  # [N] float64, |x|
    lost: Tensor  # [N] float64, |x - x'|
    exponent: int


class Candidates(NamedTuple):
    """For some queries, every item that can be among the first k, at least k of each; P pairs."""

    query: Tensor  # [P]
    item: Tensor  # [P]
    product: Tensor  # [P] float32
    groups: int  # pairs of a query and a group that were multiplied again


def round_vectors(vectors: Tensor, low: torch.dtype) -> Rounded:
    """Round vectors [N, D] float32 to `low`, and measure what is lost."""
    exponent = int(torch.frexp(vectors.abs().max()).exponent) if len(vectors) else 0
    if abs(exponent) <= SPAN:
        exponent = 0
    else:  # a power of two changes no order and no digit, but keeps the products in range
        vectors = (vectors.double() * 2.0**-exponent).float()
    length = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    if low == vectors.dtype:
        return Rounded(vectors, vectors, length, torch.zeros_like(length), exponent)
    rounded = vectors.to(low)
    rounded[rounded.abs() < torch.finfo(low).tiny] = 0
    lost = [
        torch.linalg.vector_norm(a - b.float(), dim=1, dtype=torch.float64)
        for a, b in zip(torch.split(vectors, 4096), torch.split(rounded, 4096), strict=True)
    ]
    return Rounded(vectors, rounded, length, torch.cat(lost), exponent)


def compute_single_slack(queries: Rounded, gallery: Rounded) -> Tensor:
    """Return per query [Q] float32 more than a float32 product with any gallery item can be wrong by."""
    dimensions = queries.full.shape[1]
    slack = (dimensions + 16) * 2.0**-23 * queries.length * gallery.length.max()
    return (slack + (dimensions + 16) * 2.0**-100).float()


def compute_low_slack(queries: Rounded, gallery: Rounded) -> Tensor:
    """Return per query [Q] float32 the e of the module's docstring."""
    dimensions = queries.full.shape[1]
    longest, lost = gallery.length.max(), gallery.lost.max()
    own = queries.length + queries.lost
    summed = (dimensions + 16) * 2.0**-22 * own * (longest + lost)
    return (queries.lost * longest + own * lost + summed + (dimensions + 16) * 2.0**-100).float()


def find_shortlists(
    images: Rounded, texts: Rounded, k: int, both: bool
) -> tuple[Iterator[Candidates], Iterator[Candidates]]:
    """Two iterators: texts that can be among an image's first k and, where `both`, images among a text's."""
    low_T = _pad(texts.low)
    image, text = (torch.arange(len(low) + -len(low) % GROUP, device=low.device) for low in (images.low, low_T))
    with _summing_in_float32():
        row_IN, column_NT = _compute_maxima(_pad(images.low), _split_tiles(low_T), both)
    text = torch.cat(_split_tiles(text))
    by_image = _split_chunks(row_IN, image, len(images.full))
    by_text = _split_chunks(column_NT.T, text, len(texts.full))
    return _find_candidates(images, texts, by_image, k), _find_candidates(texts, images, by_text, k)


@contextmanager
def _summing_in_float32() -> Iterator[None]:
    """CUDA may add parts of a bfloat16 product in bfloat16, and then the bound does not hold."""
    settings = torch.backends.cuda.matmul
    before = settings.allow_bf16_reduced_precision_reduction
    settings.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        settings.allow_bf16_reduced_precision_reduction = before


def _pad(low: Tensor) -> Tensor:
    """Fill up to whole groups by repeating the last item, which leaves its group's maximum as it is."""
    return torch.cat([low, low[-1:].expand(-len(low) % GROUP, -1)])


def _split_tiles(items: Tensor) -> list[Tensor]:
    """Split into tiles of at most TILE_TEXTS: item i of group n of N groups moves from n GROUP + i to i N + n.

    A reduction over GROUP places that are N apart is fast, one over GROUP neighbours is not.
    """
    return [
        part.view(-1, GROUP, *part.shape[1:]).transpose(0, 1).reshape(part.shape)
        for part in torch.split(items, TILE_TEXTS)
    ]


def _compute_maxima(images: Tensor, texts: list[Tensor], both: bool) -> tuple[Tensor, Tensor]:
    """Return the largest scores per image and text group [I, N], and per image group and text [N, T]."""
    width = sum(map(len, texts))
    row_IN = images.new_empty(len(images), width // GROUP)
    column_NT = images.new_empty(len(images) // GROUP if both else 0, width)
    step = max(GROUP, TILE_SCORES // len(texts[0]) // GROUP * GROUP)
    for start in range(0, len(images), step):
        i = slice(start, start + step)
        t = 0
        for part in texts:
            tile_BT = images[i] @ part.T
            row_IN[i, t // GROUP : (t + len(part)) // GROUP] = tile_BT.view(len(tile_BT), GROUP, -1).amax(dim=1)
            if both:
                groups = slice(start // GROUP, (start + step) // GROUP)
                column_NT[groups, t : t + len(part)] = tile_BT.view(-1, GROUP, len(part)).amax(dim=1)
            t += len(part)
    return row_IN, column_NT


def _split_chunks(maxima_QN: Tensor, query: Tensor, queries: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (query [B], maxima [B, N] float32) without the padding."""
    step = max(1, CHUNK_MAXIMA // max(1, maxima_QN.shape[1]))
    for start in range(0, len(query), step):
        real = (query[start : start + step] < queries).nonzero()[:, 0]
        yield query[start : start + step][real], maxima_QN[start : start + step].index_select(0, real).float()


def _find_candidates(
    queries: Rounded, gallery: Rounded, chunks: Iterator[tuple[Tensor, Tensor]], k: int
) -> Iterator[Candidates]:
    slack_Q, stored = compute_low_slack(queries, gallery), STORED if gallery.low.dtype == torch.bfloat16 else 0.0
    least_Q = torch.full_like(slack_Q, -torch.inf)  # L
    waiting: list[tuple[Tensor, Tensor]] = []
    held = 0
    for query_B, maximum_BN in chunks:
        if k <= maximum_BN.shape[1]:
            kth_B = maximum_BN.topk(k, dim=1).values[:, -1]
            least_Q[query_B] = kth_B - slack_Q[query_B] - stored * kth_B.abs()
        above_BN = maximum_BN + stored * maximum_BN.abs() + slack_Q[query_B, None] >= least_Q[query_B, None]
        for part in _split_parts(query_B, above_BN):
            if held and held + len(part[0]) > BATCH_GROUPS:
                yield _multiply_again(queries, gallery, waiting, least_Q)
                waiting, held = [], 0
            waiting.append(part)
            held += len(part[0])
    if held:
        yield _multiply_again(queries, gallery, waiting, least_Q)


def _split_parts(query_B: Tensor, above_BN: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (query, group) pairs, at most BATCH_GROUPS at once or those of one query."""
    if len(query_B) > 1 and above_BN.sum() > BATCH_GROUPS:
        half = len(query_B) // 2
        yield from _split_parts(query_B[:half], above_BN[:half])
        yield from _split_parts(query_B[half:], above_BN[half:])
    else:
        row, group = above_BN.nonzero(as_tuple=True)
        yield query_B[row], group


def _multiply_again(
    queries: Rounded, gallery: Rounded, pairs: list[tuple[Tensor, Tensor]], least_Q: Tensor
) -> Candidates:
    """Compute the float32 products of queries and groups, as far as they can belong to the first k."""
    query, group = (torch.cat(column) for column in zip(*pairs, strict=True))
    floor_Q = least_Q - compute_single_slack(queries, gallery)
    group, order = group.sort(stable=True)
    query = query[order]
    names, sizes = torch.unique_consecutive(group, return_counts=True)
    parts = []
    for name, query_B in zip(names.tolist(), torch.split(query, sizes.tolist()), strict=True):
        # index_select: four times as fast as queries.full[query_B]
        product_BG = queries.full.index_select(0, query_B) @ gallery.full[name * GROUP : (name + 1) * GROUP].T
        row, item = (product_BG >= floor_Q[query_B, None]).nonzero(as_tuple=True)
        parts.append((query_B[row], item + name * GROUP, product_BG[row, item]))
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return Candidates(columns[0], columns[1], columns[2], len(query))
