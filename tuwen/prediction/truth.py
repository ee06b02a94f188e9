"""What a sound result file is worth: hit@k by a table of true pairs, with intervals and beside chance.

The table is a CSV or Parquet with `image_id` and `text_id` (or `image` and `text`), such as a set's pairs.parquet,
or with `image_id` and `caption`, as the contest's ImageWordData.csv; a column `label` may say 0 where a pair is
false.
Shapes: N queries with a true item, K ks.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.pair_tables import BY_CAPTION, BY_ID, read_named_pairs, read_rows
from tuwen.data.formats.text_files import read_csv_rows
from tuwen.prediction.result_file import HEADERS
from tuwen.retrieval.intervals.resampling import SAMPLES, SEED, compute_intervals
from tuwen.retrieval.metrics import Judged, compute_chances, compute_hits

SCORED_KS = (1, 5, 10)  # as far as the file goes, and its last rank
NAMES_SHOWN = 3  # of what the truth does not know

TrueItems = Mapping[str, set[str]]  # query id -> ids of its true items


class Truth(NamedTuple):
    """A table of true pairs as a task's query and gallery tables see it."""

    items: TrueItems
    pairs: int  # in the table
    unknown: Mapping[str, list[str]]  # "image", "text" or "caption" -> those that neither table holds, each once


class Task(NamedTuple):
    """What was asked: the tables that the result file was made for."""

    direction: str  # t2i or i2t
    query_ids: Sequence[str]
    gallery_ids: Sequence[str]
    texts: Path  # the one of the two tables that holds the texts


def describe_score(path: Path, task: Task, truth: Path, k: int) -> str:
    """Return lines for a terminal: how many queries have a truth, what is unknown, and hit@k of each k.

    path: a sound result file of k ranks. Raises UserError for a truth without a known column, and for one that
    has no true item of any query.
    """
    found = read_truth(truth, task)
    judged = _judge_file(path, task, found.items, k)
    asked, total = len(judged.query), len(task.query_ids)
    lines = [f"{asked} of {total} queries are scored"]
    if asked < total:
        lines[0] += f"; {total - asked} have no true item of this gallery in {truth}, such as "
        lines[0] += ", ".join([repr(one) for one in task.query_ids if one not in found.items][:NAMES_SHOWN])
    for kind, names in found.unknown.items():
        such = ", ".join(map(repr, names[:NAMES_SHOWN]))
        lines.append(f"{truth}: {len(names)} {kind}s of {found.pairs} pairs are not in the tables, such as {such}")
    ks = [*(one for one in SCORED_KS if one < k), k]
    hit_NK = compute_hits(judged, ks)
    ends = 100 * compute_intervals(hit_NK, _group_queries(task, judged, found.items), SAMPLES, SEED)
    chances = compute_chances(judged, len(task.gallery_ids), ks).mean(axis=0)
    for rank, hit, (low, high), chance in zip(ks, hit_NK.mean(axis=0), ends, chances, strict=True):
        lines.append(f"R@{rank:<4}{100 * hit:>6.1f} %  [{low:.1f}, {high:.1f}]  chance {100 * chance:.1f} %")
    return "\n".join(
        [*lines, "R@k is hit@k: any true item among the first k; 95 % bootstrap intervals by picture"]
    )


def read_truth(path: Path, task: Task) -> Truth:
    """Read a table of true pairs. Raises UserError for other columns, and where no pair is one of the task."""
    is_text_query = DIRECTIONS[task.direction].queries == "texts"
    queries, gallery = set(task.query_ids), set(task.gallery_ids)
    images, texts = (gallery, queries) if is_text_query else (queries, gallery)
    items, unknown = defaultdict[str, set[str]](set), defaultdict[str, dict[str, None]](dict)
    texts_of: Mapping[str, list[str]] | None = None
    kind, pairs = "text", 0
    for pair in read_named_pairs(path, (*BY_ID, *BY_CAPTION)):
        if not pair.fits:
            continue
        pairs += 1
        kind, matched = "text", [pair.text] if pair.text in texts else []
        if pair.is_caption:
            texts_of = _read_captions(task.texts) if texts_of is None else texts_of
            kind, matched = "caption", texts_of.get(pair.text.strip(), [])
        if not matched:
            unknown[kind][pair.text] = None
        if pair.image not in images:
            unknown["image"][pair.image] = None
            continue
        for text in matched:
            query, item = (text, pair.image) if is_text_query else (pair.image, text)
            items[query].add(item)
    if not items:
        raise UserError(
            f"{path}: none of its {pairs} pairs is an image and a {kind} of this task; name the pairs "
            "by the ids of the query and gallery tables, or the captions as they stand there"
        )
    return Truth(items, pairs, {name: list(names) for name, names in unknown.items()})


def _read_captions(path: Path) -> Mapping[str, list[str]]:
    """Return caption -> ids of the texts that have it."""
    ids = defaultdict[str, list[str]](list)
    for line, row in read_rows(path):
        if "caption" not in row:
            raise UserError(
                f"{path}:{line}: no column caption, found {list(row)}; the truth names captions, so either this "
                "table must hold them or the truth must name a text_id"
            )
        ids[str(row["caption"]).strip()].append(str(row["text_id"]))
    return ids


def _judge_file(path: Path, task: Task, items: TrueItems, k: int) -> Judged:
    query_column, rank_column, item_column = HEADERS[task.direction]
    best, found = dict.fromkeys(task.query_ids, k + 1), dict.fromkeys(task.query_ids, 0)
    for _, row in read_csv_rows(path, HEADERS[task.direction]):
        query = row[query_column]
        if row[item_column] in items.get(query, ()):
            best[query], found[query] = min(best[query], int(row[rank_column])), found[query] + 1
    asked = [row for row, query in enumerate(task.query_ids) if query in items]
    ids = [task.query_ids[row] for row in asked]
    return Judged(
        np.array(asked, np.int64),
        np.array([best[one] for one in ids]),
        np.array([len(items[one]) for one in ids]),
        np.array([[found[one]] for one in ids]),
    )


def _group_queries(task: Task, judged: Judged, items: TrueItems) -> Any:
    """Return what the bootstrap draws, for each query: its picture; texts of one are not independent."""
    ids = [task.query_ids[row] for row in judged.query.tolist()]
    return np.array([min(items[one]) for one in ids] if task.direction == "t2i" else ids)
