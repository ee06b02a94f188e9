"""The embedded store: search over the vectors of an index as they lie on disk, memory-mapped.

A float32 product of the query with every vector finds what can be among the first k, and the float64 score of
retrieval/search.py decides: the same answers, ties included, in whatever batch a query stands. One million
vectors of 512 dimensions are 2 GB that a query reads once, by threads of its own; nothing is copied at the start.
Kept as float16 or int8 (retrieval/quantised) they are a half or a quarter of that, and answers are exact over what
is kept; kept as binary, a query reads their signs and scores the candidates that these find by int8.
Shapes: Q queries, G items, D dimensions, C candidates.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from tuwen.core.executor import count_workers
from tuwen.retrieval.quantised.codes import Codes, decode_vectors, select_rows
from tuwen.retrieval.quantised.search import CANDIDATES_PER_ANSWER, find_candidates, score_candidates
from tuwen.retrieval.search import compute_exact
from tuwen.retrieval.vectors import UNIT_TOLERANCE, Flags, Vectors
from tuwen.service.index.item_index import ItemIndex
from tuwen.service.index.store import Hits, ItemFilter

BLOCK_ROWS = 1 << 12  # vectors of one product: 8 MB at 512 dimensions
PASS_SCORES = 1 << 24  # scores held at once, 64 MB
FEW_SHARE = 8  # below 1/FEW_SHARE of the items it is cheaper to copy their vectors than to multiply all
FILTERS_KEPT = 32
LEAST_CANDIDATES = 1000  # by signs: up to 250 answers do not depend on what others ask in the same batch
NOTHING_FOUND = Hits(np.empty(0, np.int64), np.empty(0, np.float32))


class ExactStore:
    """Search over an index; several threads may ask, one after another."""

    def __init__(self, index: ItemIndex) -> None:
        self._index = index
        self._pool = ThreadPoolExecutor(count_workers(), "exact")
        self._find_kept = lru_cache(FILTERS_KEPT)(self._compute_kept)

    def search(self, side: str, queries: Vectors, k: int, keep: ItemFilter) -> list[Hits]:
        """Return the k best items that the filter keeps, for each query; queries [Q, D], unit rows."""
        codes, kept = self._index.codes[side], self._find_kept(side, keep)
        if codes.signs is not None:
            return _search_by_signs(codes, queries, k, kept)
        rows = None
        if kept is not None and np.count_nonzero(kept) * FEW_SHARE < len(kept):
            rows = np.flatnonzero(kept)
            codes, kept = select_rows(codes, rows), None
        step = max(1, PASS_SCORES // max(1, len(codes.values)))
        found = []
        for start in range(0, len(queries), step):
            found += self._search_pass(codes, queries[start : start + step], k, kept)
        return found if rows is None else [hits._replace(rows=rows[hits.rows]) for hits in found]

    def count(self, side: str, keep: ItemFilter) -> int:
        """Return how many items the filter keeps."""
        kept = self._find_kept(side, keep)
        return len(self._index.codes[side].values) if kept is None else int(np.count_nonzero(kept))

    def take_over(self) -> None:
        """Tell nobody: there is no server."""

    def drop(self) -> None:
        """Let go of the threads; the files are an out of DVC's and stay."""
        self._pool.shutdown(wait=False)

    def _search_pass(self, codes: Codes, queries: Vectors, k: int, kept: Flags | None) -> list[Hits]:
        scores_QG = self._multiply(torch.from_numpy(queries), codes)
        if kept is not None:
            scores_QG[:, torch.from_numpy(~kept)] = -torch.inf
        most = min(k, len(codes.values))
        if not most:
            return [NOTHING_FOUND] * len(queries)
        kth_Q = scores_QG.topk(most, dim=1).values[:, -1:]
        near_QG = (scores_QG >= kth_Q - 2 * _bound_error(queries.shape[1])) & (scores_QG > -torch.inf)
        query, item = (column.numpy() for column in near_QG.nonzero(as_tuple=True))
        rows, place = np.unique(item, return_inverse=True)
        exact = compute_exact(queries, decode_vectors(codes, rows), query, place)
        order = np.lexsort((item, -exact, query))
        ends = np.searchsorted(query, np.arange(1, len(queries)))  # nonzero sorts by query
        best = (part[:k] for part in np.split(order, ends))
        return [Hits(item[part], exact[part].astype(np.float32)) for part in best]

    def _multiply(self, queries_QD: torch.Tensor, codes: Codes) -> torch.Tensor:
        """Return the products [Q, G], each block of items by a thread."""
        scores_QG = torch.empty(len(queries_QD), len(codes.values))

        def fill(start: int) -> None:
            block = slice(start, start + BLOCK_ROWS)
            torch.mm(queries_QD, torch.from_numpy(decode_vectors(codes, block)).T, out=scores_QG[:, block])

        list(self._pool.map(fill, range(0, len(codes.values), BLOCK_ROWS)))
        return scores_QG

    def _compute_kept(self, side: str, keep: ItemFilter) -> Flags | None:
        """Return which items a filter keeps [G], None for all."""
        table, kept = self._index.tables[side], None
        for name, values in keep.values:
            kept = _join(kept, pc.is_in(table[name], value_set=pa.array(values, pa.string())))
        for name, least, most in keep.ranges:
            within = pc.and_(pc.greater_equal(table[name], least), pc.less_equal(table[name], most))
            kept = _join(kept, pc.fill_null(within, False))
        return kept


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


def _bound_error(dimensions: int) -> float:
    """Return more than a float32 product of unit vectors can be wrong by (retrieval/shortlist.py).

    Twice that, since those of fewer bytes are not quite of length 1.
    """
    return 2 * (dimensions + 16) * 2.0**-23 * (1 + UNIT_TOLERANCE) ** 2
