"""The first answers from a gallery in fewer bytes.

float32, float16 and int8: exact search over the vectors as they are kept, so that what is lost is lost by rounding
alone. int8 needs no candidates that are scored anew: the query is float32 against all of it. binary: the nearest
by signs are candidates, and the float32 query's product with their int8 vectors orders them.
Shapes: Q queries, N vectors of the gallery, W words of 64 signs, C candidates.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tuwen.core.executor import count_workers
from tuwen.retrieval.quantised.codes import Codes, Signs, decode_vectors, pack_signs
from tuwen.retrieval.search import compute_exact, top_k
from tuwen.retrieval.vectors import Floats, Rows, Vectors

CANDIDATES_PER_ANSWER = 4  # sentence-transformers' rescore_multiplier
SIGNS_AT_ONCE = 1 << 16  # whose distances to a query are added up at once, in the cache


def find_first(queries: Vectors, codes: Codes, k: int) -> Rows:
    """Return the k gallery rows of the highest score per query, best first [Q, k]; equal ones: lower row first."""
    if codes.signs is None:
        return top_k(queries, decode_vectors(codes), k)[0]
    candidates_QC = find_candidates(queries, codes.signs, min(CANDIDATES_PER_ANSWER * k, len(codes.values)))
    scores_QC = score_candidates(queries, codes, candidates_QC)
    order = np.lexsort((candidates_QC, -scores_QC), axis=1)[:, :k]
    return np.take_along_axis(candidates_QC, order, axis=1)


def find_candidates(queries: Vectors, signs_WN: Signs, count: int) -> Rows:
    """Return the rows [Q, count] whose signs differ least from each query's, best first; equal: lower row."""
    asked_QW, items = np.ascontiguousarray(pack_signs(queries).T), signs_WN.shape[1]

    def find(asked_W: Signs) -> Rows:
        differing = np.empty(items, np.int64)
        for start in range(0, items, SIGNS_AT_ONCE):
            block = slice(start, start + SIGNS_AT_ONCE)
            differing[block] = np.bitwise_count(signs_WN[:, block] ^ asked_W[:, None]).sum(axis=0, dtype=np.uint16)
        place = differing * items + np.arange(items)  # one number for both, so that equal ones are in order
        nearest: Rows = np.sort(np.partition(place, count - 1)[:count]) % items
        return nearest

    with ThreadPoolExecutor(count_workers()) as threads:
        return np.array(list(threads.map(find, asked_QW)), np.int64).reshape(len(queries), count)


def score_candidates(queries: Vectors, codes: Codes, candidates_QC: Rows) -> Floats:
    """Return the float64 products of each query with its candidates as they are kept, [Q, C]."""
    rows, place = np.unique(candidates_QC, return_inverse=True)
    query = np.repeat(np.arange(len(queries)), candidates_QC.shape[1])
    return compute_exact(queries, decode_vectors(codes, rows), query, place.ravel()).reshape(candidates_QC.shape)
