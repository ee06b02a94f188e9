"""Anybody's re-ranker: a table of query, item and score, which puts these items before all others.

The first column names the queries and so the direction: `text,image,score` is of texts that search images. The
items of a query stand in the order of their scores, equal ones in that of the cosine; the others follow by cosine.
Shapes: S scored items, P true pairs, Q queries, R first answers.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.data.formats.directions import DIRECTIONS, Direction
from tuwen.data.formats.pair_tables import BY_ID, read_rows
from tuwen.evaluation.answers import Answers
from tuwen.evaluation.external.arrays import ForeignArray
from tuwen.retrieval.metrics import judge_ranks, rank_true_items
from tuwen.retrieval.search import rank_items, top_k
from tuwen.retrieval.vectors import Floats, RetrievalTask, Rows

NAMED_UNKNOWN = 3  # unknown names in an error


class ScoredItems(NamedTuple):
    """What a re-ranker says of some items of some queries; every pair once."""

    query: Rows  # [S] rows
    item: Rows  # [S]
    score: Floats  # [S]


def read_scores(paths: Sequence[Path], images: ForeignArray, texts: ForeignArray) -> dict[str, ScoredItems]:
    """Read the tables of one direction or both. Raises UserError as `read_score_table`, and for two of one."""
    scores: dict[str, ScoredItems] = {}
    for path in paths:
        name, table = read_score_table(path, images, texts)
        if name in scores:
            raise UserError(f"{path}: a second table of {DIRECTIONS[name].title}; give one for each direction")
        scores[name] = table
    return scores


def read_score_table(path: Path, images: ForeignArray, texts: ForeignArray) -> tuple[str, ScoredItems]:
    """Return the direction of a table and its rows.

    Raises UserError for other columns, an empty table, names that are no row, a pair that stands there twice and a
    score that is no number.
    """
    arrays = {"images": images, "texts": texts}
    direction: Direction | None = None
    rows_of: list[dict[str, int]] = []
    seen: dict[tuple[int, int], float] = {}
    columns: tuple[str, str] = ("", "")
    unknown: list[str] = []
    for line, row in read_rows(path):
        if direction is None:
            direction, columns = _find_direction(path, list(row))
            sides = [arrays[side] for side in (direction.queries, direction.gallery)]
            rows_of = [{name: number for number, name in enumerate(side.names)} for side in sides]
        names = [str(row[column]) for column in columns]
        query, item = (rows.get(name, -1) for rows, name in zip(rows_of, names, strict=True))
        if -1 in (query, item):
            unknown.append(f"line {line}: {','.join(names)}")
        elif (query, item) in seen:
            raise UserError(f"{path}: line {line}: {','.join(names)} has a score already; give each pair once")
        seen[query, item] = _read_number(path, line, row["score"])
    if unknown:
        more = f" (and {len(unknown) - NAMED_UNKNOWN} more)" if len(unknown) > NAMED_UNKNOWN else ""
        raise UserError(
            f"{path}: no such row: {'; '.join(unknown[:NAMED_UNKNOWN])}{more}; images: {images.describe_names()}; "
            f"texts: {texts.describe_names()}"
        )
    if direction is None:
        raise UserError(f"{path}: no score; write a line for each pair that was scored")
    rows_S2 = np.array(list(seen), np.int64)
    return direction.name, ScoredItems(rows_S2[:, 0], rows_S2[:, 1], np.array(list(seen.values()), np.float64))


def _find_direction(path: Path, header: list[str]) -> tuple[Direction, tuple[str, str]]:
    """Return the direction by which of the two columns stands first, and these, that of the queries first."""
    for image, text in BY_ID:
        if {image, text, "score"} <= set(header):
            by_text = header.index(text) < header.index(image)
            return DIRECTIONS["t2i" if by_text else "i2t"], (text, image) if by_text else (image, text)
    raise UserError(
        f"{path}: line 1: header text,image,score or image,text,score expected, the query first, got "
        f"{','.join(header)!r}; rename the columns"
    )


def _read_number(path: Path, line: int, value: object) -> float:
    try:
        score = float(str(value))
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{path}: line {line}: score {value!r}: a number expected")
    return score


def rerank_answers(
    answers: Mapping[str, Answers],
    tasks: Mapping[str, RetrievalTask],
    scores: Mapping[str, ScoredItems],
    ks: Sequence[int],
) -> dict[str, Answers]:
    """Return the answers with the scored items of each query before all others; a direction without stays."""
    return {
        name: _reorder(own, tasks[name], scores[name], ks) if name in scores else own
        for name, own in answers.items()
    }


def _reorder(own: Answers, task: RetrievalTask, scored: ScoredItems, ks: Sequence[int]) -> Answers:
    by_cosine = rank_items(task.queries, task.gallery, scored.query, scored.item)
    order = np.lexsort((by_cosine, -scored.score, scored.query))
    query, item, by_cosine = scored.query[order], scored.item[order], by_cosine[order]
    counts = np.bincount(query, minlength=len(task.queries))
    place = np.arange(len(query)) - (counts.cumsum() - counts)[query]  # in the query's list, from 0
    true_query, true_rank = rank_true_items(task)
    # a query and a rank by cosine as one number, which names an item of that query
    key, true_key = (q * (len(task.gallery) + 1) + r for q, r in ((query, by_cosine), (true_query, true_rank)))
    by_key = np.argsort(key)
    found = np.searchsorted(key[by_key], true_key)
    listed = key[by_key][np.minimum(found, len(key) - 1)] == true_key
    ahead = found - np.searchsorted(key[by_key], true_query * (len(task.gallery) + 1))
    moved = np.where(
        listed,
        place[by_key][np.minimum(found, len(key) - 1)] + 1,
        counts[true_query] + true_rank - ahead,
    )
    return own._replace(
        judged=judge_ranks(true_query, moved, ks),
        judged_before=own.judged,
        first=_list_first(task, own.first.shape[1], np.split(item, counts.cumsum()[:-1])),
    )


def _list_first(task: RetrievalTask, count: int, listed: Sequence[Rows]) -> Rows:
    """Return the first answers [Q, count]: the listed items, then the others by cosine."""
    by_cosine, _ = top_k(task.queries, task.gallery, min(2 * count, len(task.gallery)))
    first = np.empty((len(listed), count), np.int64)
    for row, (own, others) in enumerate(zip(listed, by_cosine, strict=True)):
        rest = others[~np.isin(others, own)]
        first[row] = np.concatenate([own[:count], rest[: max(0, count - len(own))]])
    return first
