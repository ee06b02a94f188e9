"""Connected components: which rows belong together when some of them are known to."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Booleans = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.integer[Any]]
Edges = tuple[Integers, Integers]  # the two ends of E edges, [E] each

MAX_KEPT_EDGES = 1 << 22


def label_components(size: int, edges: Iterable[Edges]) -> Integers:
    """Return the number of the connected component of each of `size` nodes [size], in the order of the nodes.

    The edges may come in any number of parts: whenever more than MAX_KEPT_EDGES are held, one edge per node, which
    joins the same nodes, takes their place.
    """
    held, count = list[Edges](), 0
    for part in edges:
        held.append(part)
        count += len(part[0])
        if count > MAX_KEPT_EDGES:
            labels = _label(size, held)
            first = np.unique(labels, return_index=True)[1]
            held, count = [(np.arange(size), first[labels])], 0
    return _label(size, held)


def _label(size: int, edges: list[Edges]) -> Integers:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends, other_ends = (np.concatenate([part[side] for part in edges] or [np.empty(0, int)]) for side in (0, 1))
    graph = coo_matrix((np.ones(len(ends), bool), (ends, other_ends)), shape=(size, size))
    labels: Integers = connected_components(graph, directed=False)[1]
    return labels


def label_by_keys(size: int, keys: Iterable[Edges]) -> Integers:
    """Return the number of the component of each of `size` rows [size] that equal keys join.

    keys: for every kind of key, (row, number of its key) of the rows that have one. A key is a node of its own
    beside the rows, so a key that M rows share takes M edges, not M².
    """
    nodes, edges = size, list[Edges]()
    for rows, numbers in keys:
        edges.append((rows, numbers + nodes))
        nodes += int(numbers.max(initial=-1)) + 1
    return label_components(nodes, edges)[:size]


def join_within(base: Integers, keys: Edges, largest: int) -> Integers:
    """Return the component of each row [N] where keys join rows too, beside the components of `base` [N].

    keys: (row, number of its key). A key that would make a component of more than `largest` rows joins nothing;
    those of the lowest numbers come first.
    """
    rows, numbers = keys
    kept = np.arange(len(base)), base
    joined = label_by_keys(len(base), [kept, keys])
    doubtful = (np.bincount(joined)[joined] > largest)[rows]
    if not doubtful.any():
        return joined
    order = np.flatnonzero(doubtful)[np.argsort(numbers[doubtful], kind="stable")]
    members = np.split(base[rows[order]], np.flatnonzero(np.diff(numbers[order])) + 1)
    joins = ~np.isin(numbers, numbers[order])
    joins[order] = np.repeat(_choose_small(np.bincount(base), members, largest), [len(one) for one in members])
    return label_by_keys(len(base), [kept, (rows[joins], numbers[joins])])


def _choose_small(sizes: Integers, members: Iterable[Integers], largest: int) -> Booleans:
    """Return which unions of `members`, components of these sizes, are made one after the other: no large one."""
    total, parent = sizes.tolist(), list(range(len(sizes)))

    def find_root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    chosen = []
    for nodes in members:
        roots = sorted({find_root(node) for node in nodes.tolist()})
        size = sum(total[root] for root in roots)
        chosen.append(len(roots) == 1 or size <= largest)
        if chosen[-1]:
            total[roots[0]] = size
            for root in roots:
                parent[root] = roots[0]
    return np.array(chosen, bool)


def number_keys(column: "pd.Series[Any]") -> Edges:
    """Return (row, number of its key) of every row that has a key, as `label_by_keys` takes them."""
    present = column.notna().to_numpy()
    return np.flatnonzero(present), column[present].factorize()[0]
