"""ranks.parquet: how every query of a set fared. Its writer and its reader."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tuwen.data.formats import pairs
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.evaluation.answers import Answers
from tuwen.evaluation.embedded_set import EmbeddedSet, Groups
from tuwen.retrieval.metrics import Judged
from tuwen.retrieval.vectors import Flags


class RankedQueries(NamedTuple):
    """One direction of the file: N queries that have a true item."""

    query_ids: pa.ChunkedArray  # [N]
    groups: Groups  # [N]
    judged: Judged  # its `query` are rows of the file's part
    seen: Flags | None = None  # [N] as in `Answers`


def make_ranks_table(embedded: EmbeddedSet, answers: Mapping[str, Answers], ks: Sequence[int]) -> pa.Table:
    """Return a row for each query: direction, query_id, group, caption_in_train, ranks, found_at_<k> of each k.

    answers: those of the set, judged at `ks`.
    """
    tables = []
    for name, direction in DIRECTIONS.items():
        ids, (judged, groups) = embedded.ids[direction.queries], (answers[name].judged, answers[name].groups)
        columns = {
            "direction": pa.array([name] * len(judged.query), pa.string()),
            "query_id": pa.array([ids[row] for row in judged.query.tolist()], pa.string()),
            "group": pa.array(groups, pa.string()),
            "caption_in_train": np.zeros(len(groups), bool) if answers[name].seen is None else answers[name].seen,
            "best_rank": judged.best_rank,
            "true_items": judged.true_items,
        }
        found = {f"found_at_{k}": judged.found[:, column] for column, k in enumerate(ks)}
        tables.append(pa.table(columns | found))
    return pa.concat_tables(tables).combine_chunks()


def make_empty_ranks(ks: Sequence[int]) -> pa.Table:
    """Return the table of a model that answers nothing."""
    texts = dict.fromkeys(("direction", "query_id", "group"), pa.string())
    numbers = dict.fromkeys(("best_rank", "true_items", *(f"found_at_{k}" for k in ks)), pa.int64())
    return pa.schema(texts | {"caption_in_train": pa.bool_()} | numbers).empty_table()


def read_ranks(path: Path, ks: Sequence[int]) -> dict[str, RankedQueries]:
    """Read the ranks of one model by direction. Raises UserError when the file is missing."""
    return split_ranks(pairs.read_table(path), ks)


def split_ranks(table: pa.Table, ks: Sequence[int]) -> dict[str, RankedQueries]:
    """Split a ranks table by direction; `found` has no column where one of `ks` was not measured."""
    names = [f"found_at_{k}" for k in ks]
    if any(name not in table.schema.names for name in names):
        names = []
    directions = {}
    for direction in DIRECTIONS:
        rows = table.filter(pc.equal(table["direction"], direction))
        found = np.zeros((len(rows), len(names)), np.int64)
        for column, name in enumerate(names):
            found[:, column] = rows[name].to_numpy()
        judged = Judged(np.arange(len(rows)), rows["best_rank"].to_numpy(), rows["true_items"].to_numpy(), found)
        known = "caption_in_train" in table.schema.names  # a file of older code has no such column
        seen = rows["caption_in_train"].to_numpy() if known else np.zeros(len(rows), bool)
        groups = rows["group"].to_numpy()
        directions[direction] = RankedQueries(rows["query_id"], groups, judged, seen if seen.any() else None)
    return directions
