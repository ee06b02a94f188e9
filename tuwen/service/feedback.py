"""Relevance feedback: pictures that a person marks among the answers move the question.

The formula is that of Rocchio, Relevance feedback in information retrieval (in Salton, The SMART Retrieval System,
1971), over the vectors of a dual encoder. A picture's vector moves a text's as it is: without the pictures' mean,
so that the gap between the modalities stays out of the sum, less was found (benchmarks/feedback.py).
Shapes: D dimensions, M pictures to be more like, L to be less like, k hits.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from tuwen.retrieval.vectors import Vectors
from tuwen.service.index.item_index import ItemIndex
from tuwen.service.index.store import Hits, ItemFilter

# 1, 0.75 and 0.15 are usual (Manning et al., Introduction to Information Retrieval, 9.1.1). The last was chosen on
# valid: one picture that looks like what is sought is close to it, and 0.15 pushes away what is sought as well.
QUERY_WEIGHT, MORE_WEIGHT, LESS_WEIGHT = 1.0, 0.75, 0.05


class Feedback(NamedTuple):
    """What was marked, as rows of the index's images."""

    more: tuple[int, ...] = ()
    less: tuple[int, ...] = ()


def move_query(query: Vectors, more: Vectors, less: Vectors) -> Vectors:
    """Return the unit vector [D] of a query towards `more` [M, D] and away from `less` [L, D], both unit rows.

    query: a unit vector, or zeros where `more` alone asks; where opposite pictures cancel out, the first of them.
    """
    moved = QUERY_WEIGHT * query.astype(np.float64)
    for weight, vectors in ((MORE_WEIGHT, more), (-LESS_WEIGHT, less)):
        if len(vectors):
            moved += weight * vectors.mean(axis=0, dtype=np.float64)
    length = float(np.linalg.norm(moved))
    unit: Vectors = (moved / length if length else more[0]).astype(np.float32)
    return unit


def remove_rows(
    index: ItemIndex, side: str, rows: Collection[int], keep: ItemFilter, hits: Hits, total: int
) -> tuple[Hits, int]:
    """Return hits and the count of what the filter keeps without the items in `rows`."""
    if not rows:
        return hits, total
    kept = ~np.isin(hits.rows, list(rows))
    gone = sum(_is_kept(item, keep) for item in index.read_rows(side, np.array(sorted(rows))))
    return Hits(hits.rows[kept], hits.cosines[kept]), total - gone


def _is_kept(item: dict[str, Any], keep: ItemFilter) -> bool:
    return all(item[name] in values for name, values in keep.values) and all(
        item[name] is not None and least <= item[name] <= most for name, least, most in keep.ranges
    )
