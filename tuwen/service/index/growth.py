"""How sure a first answer is in an index: measured there, with the queries of valid and of test.

The curves of a model (retrieval/calibration.py) are fitted beside valid's own items. An index holds many more:
some score higher by chance, and some are right as well, those whose caption is one of the query's own. So valid's
items are laid beside the index's, the first answers of its queries are judged, and what the log odds lose is kept
(`Growth`). Where test is in the index, what is then said of its queries is held against what comes true.
Shapes: Q queries, D dimensions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tuwen.data.formats import pairs
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.text import normalise_captions
from tuwen.retrieval.calibration import Calibration, FirstAnswers, Growth, fit_growth, judge_calibration
from tuwen.retrieval.search import top_k
from tuwen.retrieval.vectors import Rows, Vectors
from tuwen.service.index.vector_files import StoredVectors, stream_stored

ASKING_SET, JUDGED_SET = "valid", "test"
MOST_QUERIES = (
    1000  # of a set, spread over its rows: two numbers need no more, and a large index is searched by each
)


class SearchedSet(NamedTuple):
    """A set whose vectors lie on disk, by side."""

    folder: Path  # of its tables
    vectors: Mapping[str, StoredVectors]


class Sureness(NamedTuple):
    """What an index knows of its first answers, by direction."""

    growth: dict[str, Growth]
    reliability: dict[str, dict[str, Any]]  # as `judge_calibration` returns it; empty without test in the index


def measure_sureness(
    index: Mapping[str, SearchedSet],
    asked: SearchedSet,
    curves: Mapping[str, Mapping[str, Calibration]],
    simplify: bool,
) -> Sureness:
    """Measure the growth of an index, and how well what is said with it holds on test.

    index: name -> set, in it. asked: valid. curves: direction -> order of the answers -> curve; the growth is
    that of the order by cosine, and a re-ranker's is taken to be the same. simplify: as in `normalise_captions`.
    """
    beside = [*(one for name, one in index.items() if name != ASKING_SET), asked]
    growth, reliability = {}, {}
    for direction, by_order in curves.items():
        fitted = len(asked.vectors[DIRECTIONS[direction].gallery].rows)
        answers = judge_first_answers(direction, asked, beside, simplify)
        growth[direction] = fit_growth(by_order["cosine"], fitted, answers)
        if JUDGED_SET in index:
            answers = judge_first_answers(direction, index[JUDGED_SET], list(index.values()), simplify)
            reliability[direction] = judge_calibration(by_order["cosine"], growth[direction], answers)
    return Sureness(growth, reliability)


def judge_first_answers(
    direction: str, asking: SearchedSet, searched: Sequence[SearchedSet], simplify: bool
) -> FirstAnswers:
    """Return the first answer of each query of a set among others' items, right where its caption is the query's.

    simplify: as in `normalise_captions`, which decides.
    """
    own, other = DIRECTIONS[direction].queries, DIRECTIONS[direction].gallery
    whole = asking.vectors[own]
    spread = np.unique(np.linspace(0, len(whole.rows) - 1, min(MOST_QUERIES, len(whole.rows))).round().astype(int))
    asked = whole._replace(rows=whole.rows[spread])
    queries = np.concatenate(list(stream_stored(asked)))
    best_Q = np.full(len(queries), -np.inf)
    set_Q, row_Q = np.zeros(len(queries), np.int64), np.zeros(len(queries), np.int64)
    for number, one in enumerate(searched):
        rows, score = _find_best(queries, one.vectors[other])
        better = score > best_Q
        best_Q[better], set_Q[better], row_Q[better] = score[better], number, rows[better]
    wanted = read_captions(asking.folder, own, asked.rows, simplify)
    right = np.zeros(len(queries), bool)
    for number, one in enumerate(searched):
        there = np.flatnonzero(set_Q == number)
        found = read_captions(one.folder, other, row_Q[there], simplify)
        right[there] = [
            not wanted[query].isdisjoint(captions) for query, captions in zip(there, found, strict=True)
        ]
    paired = np.array([bool(captions) for captions in wanted])
    items = sum(len(one.vectors[other].rows) for one in searched)
    return FirstAnswers(best_Q[paired], right[paired], items)


def _find_best(queries: Vectors, stored: StoredVectors) -> tuple[Rows, Vectors]:
    """Return for each query the row of the set's table of the highest cosine, and that cosine [Q]."""
    row_Q, best_Q = np.zeros(len(queries), np.int64), np.full(len(queries), -np.inf, np.float32)
    done = 0
    for block in stream_stored(stored):
        if len(block):
            rows_Q1, score_Q1 = top_k(queries, block, 1)
            better = score_Q1[:, 0] > best_Q
            best_Q[better], row_Q[better] = score_Q1[better, 0], stored.rows[done + rows_Q1[better, 0]]
            done += len(block)
    return row_Q, best_Q


def read_captions(folder: Path, side: str, rows: Rows, simplify: bool) -> list[set[str]]:
    """Return the captions of these rows of a side of a set, as they count as equal; an image's are its texts'."""
    tables = pairs.read_pair_set(folder)
    image, text = pairs.find_true_rows(tables)
    wanted = np.isin(image if side == "images" else text, rows)
    image, text = image[wanted], text[wanted]
    said = [caption or "" for caption in tables.texts["caption"].take(pa.array(text)).to_pylist()]
    found: dict[int, set[str]] = {}
    keys = (image if side == "images" else text).tolist()
    for row, caption in zip(keys, normalise_captions(said, simplify), strict=True):
        found.setdefault(row, set()).add(caption)
    return [found.get(row, set()) for row in rows.tolist()]
