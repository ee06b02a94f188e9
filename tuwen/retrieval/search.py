"""Exact search over embeddings, block by block: the whole score matrix is never held.

What counts as *the* score of a query and an item is one float64 dot product, summed in one fixed order; equal
scores stand in the order of the gallery. Matrix products of lower precision (bfloat16 where the machine has units
for it, see shortlist.py, then float32) find the few items whose place they cannot decide by themselves, and only
those are computed in float64: the answer depends neither on the block size nor on the machine.

Shapes: Q queries, G gallery items, D dimensions, P pairs.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from tuwen.core.errors import UserError
from tuwen.model.device import choose_device, has_bf16
from tuwen.model.precision import use_full_float32
from tuwen.retrieval.shortlist import Candidates, Rounded, compute_single_slack, find_shortlists, round_vectors
from tuwen.retrieval.vectors import Floats, Rows, Vectors, check_vectors

BLOCK_SCORES = 1 << 22  # float32 scores held at once by `rank_items` (16 MB): they stay in the cache
BLOCK_ITEMS = 1 << 13
EXACT_PAIRS = 1 << 9  # pairs computed in float64 at once: their numbers stay in the cache


@use_full_float32()
def top_k(queries: Vectors, gallery: Vectors, k: int) -> tuple[Rows, Vectors]:
    """Return the k gallery rows of the highest score per query, best first: ids [Q, k], scores [Q, k] float32.

    queries [Q, D], gallery [G, D]; unit rows make the score a cosine. Equal scores: lower gallery row first.
    Raises UserError for NaN, zero vectors, different dimensions, an empty gallery, and k over the gallery.
    Memory as `top_k_both`.
    """
    _check_pair("queries", queries, "gallery", gallery)
    _check_k(k, "the gallery", gallery)
    if not len(queries):
        return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
    rounded = _round_both(queries, gallery)
    shortlist, _ = find_shortlists(*rounded, k, both=False)
    return _choose_best(queries, gallery, shortlist, compute_single_slack(*rounded), k)


@use_full_float32()
def top_k_both(images: Vectors, texts: Vectors, k: int) -> tuple[tuple[Rows, Vectors], tuple[Rows, Vectors]]:
    """`top_k` of the images among the texts and of the texts among the images, from one pass over the scores.

    images [I, D], texts [T, D]; returns (text ids [I, k], scores [I, k]), (image ids [T, k], scores [T, k]).
    Memory beside the vectors: two copies of them in low precision, one maximum per 32 scores and direction, a tile
    of 4 million scores, and the items in question of some queries at a time, at most 8 million or one query's. For
    50,000 x 50,000 x 512 in bfloat16 the process stays under 1.5 GB, its 0.2 GB of vectors included.
    Time: where all scores of a query lie within the rounding of float32 (a model that has collapsed), each of them
    is computed in float64, about a million per second and core.
    Raises UserError as `top_k`.
    """
    _check_pair("images", images, "texts", texts)
    if not len(images):
        raise UserError("images: empty, no rows; there is nothing to search in")
    _check_k(k, "texts", texts)
    _check_k(k, "images", images)
    rounded_images, rounded_texts = _round_both(images, texts)
    by_image, by_text = find_shortlists(rounded_images, rounded_texts, k, both=True)
    return (
        _choose_best(images, texts, by_image, compute_single_slack(rounded_images, rounded_texts), k),
        _choose_best(texts, images, by_text, compute_single_slack(rounded_texts, rounded_images), k),
    )


def _round_both(queries: Vectors, gallery: Vectors, low: torch.dtype | None = None) -> tuple[Rounded, Rounded]:
    """Round both on the machine's device; low: the pass's precision, or else bfloat16 where that is faster."""
    where = choose_device()
    low = low or (torch.bfloat16 if has_bf16(where) else torch.float32)
    return (
        round_vectors(torch.from_numpy(queries).to(where), low),
        round_vectors(torch.from_numpy(gallery).to(where), low),
    )


def _choose_best(
    queries: Vectors, gallery: Vectors, shortlist: Iterator[Candidates], slack: Tensor, k: int
) -> tuple[Rows, Vectors]:
    """Order each query's items in question by their float64 scores, but those a float32 product rules out."""
    ids = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float32)
    slack_Q, answered = slack.cpu().numpy(), 0
    for candidates in shortlist:
        query, item, product = (column.cpu().numpy() for column in candidates[:3])
        order = np.argsort(_make_key(query, product))
        query, item, product = query[order], item[order], product[order]
        query_B, first_B, count_B = np.unique(query, return_index=True, return_counts=True)
        assert (count_B >= k).all(), "a query without k items"  # else the bound is broken
        least_B = product[first_B + k - 1] - 2 * slack_Q[query_B]
        near = product >= np.repeat(least_B, count_B)
        query, item = query[near], item[near]
        exact = compute_exact(queries, gallery, query, item)
        order = np.lexsort((item, -exact, query))
        best_Bk = order[np.searchsorted(query, query_B)[:, None] + np.arange(k)]
        ids[query_B], scores[query_B] = item[best_Bk], exact[best_Bk]
        answered += len(query_B)
    assert answered == len(queries), "a query without k items"
    return ids, scores


@use_full_float32()
def rank_items(queries: Vectors, gallery: Vectors, query: Rows, item: Rows) -> Rows:
    """Return the 1-based rank [P] that gallery row `item[p]` has for `queries[query[p]]` in the whole gallery.

    queries [Q, D], gallery [G, D], query and item [P]. Equal scores: lower gallery row first.
    Raises UserError as `top_k`.
    """
    _check_pair("queries", queries, "gallery", gallery)
    order = np.argsort(query, kind="stable")
    query, item = query[order], item[order]
    own = compute_exact(queries, gallery, query, item)
    rounded_queries, rounded_gallery = _round_both(queries, gallery, torch.float32)
    above, below = _compute_edges(own, rounded_queries, rounded_gallery, query)
    ahead = np.zeros(len(query), np.int64)
    for first, row, p, product_BG in _multiply_blocks(rounded_queries.full, rounded_gallery.full, query):
        higher, pair, rival = _compare(product_BG.index_select(0, row), above[p], below[p])
        pair, rival = pair + p.start, rival + first
        exact = compute_exact(queries, gallery, query[pair], rival)
        before = (exact > own[pair]) | ((exact == own[pair]) & (rival < item[pair]))
        ahead[p] += higher + np.bincount(pair[before] - p.start, minlength=len(higher))
    result = np.empty_like(ahead)
    result[order] = ahead + 1
    return result


def _compute_edges(own: Floats, queries: Rounded, gallery: Rounded, query: Rows) -> tuple[Tensor, Tensor]:
    """Return the edges, [P] each, between which a float32 product may or may not beat the pair's own score."""
    slack = compute_single_slack(queries, gallery).cpu().numpy()[query]
    own = own * 2.0 ** -(queries.exponent + gallery.exponent)
    above, below = (torch.from_numpy(edge.astype(np.float32)) for edge in (own + slack, own - slack))
    return above.to(queries.full.device), below.to(queries.full.device)


def _multiply_blocks(queries: Tensor, gallery: Tensor, query: Rows) -> Iterator[tuple[int, Tensor, slice, Tensor]]:
    """Yield (first item, row of each pair in the block, the pairs, products [B, C]); `query` [P] is sorted."""
    names, place = np.unique(query, return_inverse=True)
    step = max(1, BLOCK_SCORES // BLOCK_ITEMS)
    for start in range(0, len(names), step):
        low, high = np.searchsorted(place, [start, start + step]).tolist()
        query_BD = queries[torch.from_numpy(names[start : start + step])]
        row = torch.from_numpy(place[low:high] - start).to(queries.device)
        for first in range(0, len(gallery), BLOCK_ITEMS):
            product_BC = query_BD @ gallery[first : first + BLOCK_ITEMS].T
            for pair in range(low, high, step):  # a query can have many pairs
                p = slice(pair, min(pair + step, high))
                yield first, row[p.start - low : p.stop - low], p, product_BC


def _compare(product_PG: Tensor, above_P: Tensor, below_P: Tensor) -> tuple[Rows, Rows, Rows]:
    """Count the products [P] over `above`, and find the places (row, column) of those from `below` to it.

    Counting in bytes and searching eight at a time: bool sums and searches take longer than the product.
    """
    over_PG = product_PG > above_P[:, None]
    near_PG = over_PG ^ (product_PG >= below_P[:, None])
    over_PG, near_PG = (torch.nn.functional.pad(mask, (0, -mask.shape[1] % 64)) for mask in (over_PG, near_PG))
    higher = over_PG.view(torch.int8).view(len(over_PG), 64, -1).sum(dim=1, dtype=torch.int8)  # 64 at most
    row, word = near_PG.view(torch.int64).nonzero(as_tuple=True)
    hit, byte = near_PG.view(len(near_PG), -1, 8)[row, word].nonzero(as_tuple=True)
    places = row[hit], word[hit] * 8 + byte
    return higher.sum(dim=1, dtype=torch.int64).cpu().numpy(), places[0].cpu().numpy(), places[1].cpu().numpy()


def _check_pair(first: str, queries: Vectors, second: str, gallery: Vectors) -> None:
    check_vectors(queries, first)
    check_vectors(gallery, second)
    if not len(gallery):
        raise UserError(f"{second}: empty, no rows; there is nothing to search in")
    for name, vectors in ((first, queries), (second, gallery)):
        if vectors.dtype != np.float32:
            raise UserError(f"{name}: float32 expected, got {vectors.dtype}; use .astype(np.float32)")
    if queries.shape[1] != gallery.shape[1]:
        raise UserError(
            f"{first} have {queries.shape[1]} dimensions, {second} {gallery.shape[1]}; "
            "both must come from the same model"
        )


def _check_k(k: int, name: str, gallery: Vectors) -> None:
    if not 1 <= k <= len(gallery):
        raise UserError(f"k must be 1 to {len(gallery)}, the rows of {name}, got {k}; lower k")


def _make_key(query: Rows, product: Vectors) -> Rows:
    """Return one number per pair [P] that sorts by query, then by product, the largest first: much faster."""
    bits = product.view(np.int32)
    ordered = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))  # integers in the order of the floats
    return (query << 32) - ordered


def compute_exact(queries: Vectors, gallery: Vectors, query: Rows, item: Rows) -> Floats:
    """Compute the float64 score [P] of each pair; the same two vectors give the same bits wherever they stand."""
    scores = np.empty(len(query), np.float64)

    def fill(start: int) -> None:
        p = slice(start, start + EXACT_PAIRS)
        scores[p] = (queries[query[p]].astype(np.float64) * gallery[item[p]]).sum(axis=1)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(fill, range(0, len(query), EXACT_PAIRS)))
    return scores
