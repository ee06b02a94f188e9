"""The embedded store: search over the vectors of an index as they lie on disk, memory-mapped.

A first pass over all of them (first_pass.py) finds what can be among the first k, and the float64 score of
retrieval/search.py decides: the same answers, ties included, in whatever batch a query stands. Where the processor
multiplies int8, float32 and float16 vectors are rounded to it once, as the store opens: of a million of 512
dimensions that is half a gigabyte of memory, and a query reads it instead of two. Kept as int8
(retrieval/quantised) they are read as they lie. Answers are exact over what is kept; kept as binary, a query reads
their signs and scores the candidates that these find by int8.
Shapes: Q queries, G items, D dimensions, C candidates.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from tuwen.core.executor import count_workers
from tuwen.retrieval.quantised.codes import Codes, decode_vectors
from tuwen.retrieval.quantised.search import CANDIDATES_PER_ANSWER, find_candidates, score_candidates
from tuwen.retrieval.search import compute_exact
from tuwen.retrieval.vectors import Flags, Rows, Vectors
from tuwen.service.index.first_pass import FloatPass, Int8Pass, list_blocks, make_first_pass
from tuwen.service.index.item_index import ItemIndex
from tuwen.service.index.store import Hits, ItemFilter

PASS_SCORES = 1 << 24  # scores that a call holds at once, 64 MB
FEW_SHARE = 8  # below 1/FEW_SHARE of the items it is cheaper to copy their vectors than to multiply all
FILTERS_KEPT = 32
LEAST_CANDIDATES = 1000  # by signs: up to 250 answers do not depend on what others ask in the same batch
NOTHING_FOUND = Hits(np.empty(0, np.int64), np.empty(0, np.float32))


class ExactStore:
    """Search over an index; several threads may ask at once."""

    def __init__(self, index: ItemIndex) -> None:
        self._index = index
        self._pool = ThreadPoolExecutor(count_workers(), "exact")
        self._find_kept = lru_cache(FILTERS_KEPT)(self._compute_kept)
        self._passes = {
            side: make_first_pass(codes, self._pool) for side, codes in index.codes.items() if codes.signs is None
        }

    def search(self, side: str, queries: Vectors, k: int, keep: ItemFilter) -> list[Hits]:
        """Return the k best items that the filter keeps, for each query; queries [Q, D], unit rows."""
        codes, kept = self._index.codes[side], self._find_kept(side, keep)
        if codes.signs is not None:
            return _search_by_signs(codes, queries, k, kept)
        first, rows = self._passes[side], None
        if kept is not None and np.count_nonzero(kept) * FEW_SHARE < len(kept):
            rows, kept = np.flatnonzero(kept), None
            first = first.select(rows)
        if not first.count:
            return [NOTHING_FOUND] * len(queries)
        step = max(1, PASS_SCORES // first.count)
        found = []
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            query, item = self._find_candidates(first, part, k, kept)
            found += _choose_best(codes, part, query, item if rows is None else rows[item], k)
        return found

    def count(self, side: str, keep: ItemFilter) -> int:
        """Return how many items the filter keeps."""
        kept = self._find_kept(side, keep)
        return len(self._index.codes[side].values) if kept is None else int(np.count_nonzero(kept))

    def take_over(self) -> None:
        """Tell nobody: there is no server."""

    def drop(self) -> None:
        """Let go of the threads; the files are an out of DVC's and stay."""
        self._pool.shutdown(wait=False)

    def _find_candidates(
        self, first: FloatPass | Int8Pass, queries: Vectors, k: int, kept: Flags | None
    ) -> tuple[Rows, Rows]:
        """Return all pairs of a query and an item that can be among its first k, by query and item."""
        score, wrong_Q1 = first.score(queries)
        scores_QG = torch.empty(len(queries), first.count)
        left_out = None if kept is None else torch.from_numpy(~kept)

        def fill(block: slice) -> Tensor:
            part_QB = scores_QG[:, block]
            part_QB.copy_(score(block))
            if left_out is not None:
                part_QB[:, left_out[block]] = -torch.inf
            return part_QB.topk(min(k, part_QB.shape[1]), dim=1).values

        best = torch.cat(list(self._pool.map(fill, list_blocks(first.count))), dim=1)
        kth_Q1 = best.topk(min(k, first.count), dim=1).values[:, -1:]
        near_QG = (scores_QG >= kth_Q1 - 2 * wrong_Q1) & (scores_QG > -torch.inf)
        query, item = (column.numpy() for column in near_QG.nonzero(as_tuple=True))
        return query, item

    def _compute_kept(self, side: str, keep: ItemFilter) -> Flags | None:
        """Return which items a filter keeps [G], None for all."""
        table, kept = self._index.tables[side], None
        for name, values in keep.values:
            kept = _join(kept, pc.is_in(table[name], value_set=pa.array(values, pa.string())))
        for name, least, most in keep.ranges:
            within = pc.and_(pc.greater_equal(table[name], least), pc.less_equal(table[name], most))
            kept = _join(kept, pc.fill_null(within, False))
        return kept


def _choose_best(codes: Codes, queries: Vectors, query: Rows, item: Rows, k: int) -> list[Hits]:
    """Return the first k of each query's candidates by their float64 scores; of equal ones the lower row first."""
    rows, place = np.unique(item, return_inverse=True)
    exact = compute_exact(queries, decode_vectors(codes, rows), query, place)
    order = np.lexsort((item, -exact, query))
    ends = np.searchsorted(query, np.arange(1, len(queries)))
    best = (part[:k] for part in np.split(order, ends))
    return [Hits(item[part], exact[part].astype(np.float32)) for part in best]


def _search_by_signs(codes: Codes, queries: Vectors, k: int, kept: Flags | None) -> list[Hits]:
    """Score the candidates [Q, C] of each query among the items that are kept, all where that is None."""
    assert codes.signs is not None
    rows = np.arange(len(codes.values)) if kept is None else np.flatnonzero(kept)
    most = min(max(CANDIDATES_PER_ANSWER * k, LEAST_CANDIDATES), len(rows))
    if not most:
        return [NOTHING_FOUND] * len(queries)
    signs_WG = codes.signs if kept is None else codes.signs[:, rows]
    candidates_QC = rows[find_candidates(queries, signs_WG, most)]
    scores_QC = score_candidates(queries, codes, candidates_QC)
    order_QC = np.lexsort((candidates_QC, -scores_QC), axis=1)
    ordered = zip(candidates_QC, scores_QC, order_QC[:, :k], strict=True)
    return [Hits(rows_C[order], scores_C[order].astype(np.float32)) for rows_C, scores_C, order in ordered]


def _join(kept: Flags | None, found: pa.ChunkedArray) -> Flags:
    flags: Flags = np.asarray(found.to_numpy(), np.bool_)
    return flags if kept is None else kept & flags
