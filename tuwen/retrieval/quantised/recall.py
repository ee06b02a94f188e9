"""What fewer bytes a vector cost: hit@k of each form of a gallery, from its float32 vectors.

Shapes: Q queries, R first answers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tuwen.retrieval.metrics import compute_hits, judge_answers
from tuwen.retrieval.quantised.codes import DTYPES, count_bytes, encode_vectors, pack_signs
from tuwen.retrieval.quantised.search import find_candidates, find_first
from tuwen.retrieval.vectors import RetrievalTask, Rows, Vectors

SIGNS_ALONE = "signs"  # binary whose candidates are not scored anew: what that is worth


class Form(NamedTuple):
    """What a gallery's vectors are kept as."""

    dtype: str  # of DTYPES, or SIGNS_ALONE
    dims: int  # the first so many dimensions
    searched: int  # bytes of a vector that a search reads
    kept: int  # bytes of a vector


def list_forms(dim: int, prefixes: Sequence[int]) -> list[Form]:
    """Return what is measured, whole float32 vectors first; prefixes: dimensions that can be used alone."""
    signs, _ = count_bytes("binary", dim)
    whole = [Form(dtype, dim, *count_bytes(dtype, dim)) for dtype in DTYPES]
    shorter = [Form("float32", dims, *count_bytes("float32", dims)) for dims in prefixes]
    return [*whole, Form(SIGNS_ALONE, dim, signs, signs), *shorter]


def measure_form(task: RetrievalTask, form: Form, ks: Sequence[int]) -> list[float]:
    """Return the mean hit@k, [K], of the task where its gallery is kept in this form."""
    queries, gallery = (cut_vectors(vectors, form.dims) for vectors in (task.queries, task.gallery))
    first = _find_first(queries, gallery, form.dtype, min(max(ks), len(gallery)))
    return list(compute_hits(judge_answers(task, first, ks), ks).mean(axis=0).tolist())


def cut_vectors(vectors: Vectors, dims: int) -> Vectors:
    """Return the first dimensions of vectors [N, D], each row of length 1 again; all D as they are."""
    if dims == vectors.shape[1]:
        return vectors
    prefix = vectors[:, :dims]
    return np.ascontiguousarray(prefix / np.linalg.norm(prefix, axis=1, keepdims=True), np.float32)


def _find_first(queries: Vectors, gallery: Vectors, dtype: str, k: int) -> Rows:
    for one in DTYPES:
        if one == dtype:
            return find_first(queries, encode_vectors(gallery, one), k)
    return find_candidates(queries, pack_signs(gallery), k)
