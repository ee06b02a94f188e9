"""The store for what outgrows one machine: Milvus, Standalone or Distributed, at TUWEN_MILVUS_URI.

Each side of an index is a collection that bears the index's digest, so that one never answers for another model.
A store that is opened brings its rows there, batch by batch, and goes on where a killed one stopped; once it takes
over, the aliases tuwen_images and tuwen_texts lead to them, for whoever asks Milvus himself. Milvus finds
candidates, and the float64 score of retrieval/search.py orders them: with FLAT the answers are those of exact.py,
but for vectors equal at the end of the candidates.
TUWEN_MILVUS_TOKEN: user:password, where Milvus asks for them.
Shapes: Q queries, G items, D dimensions.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from tuwen.core.errors import UserError
from tuwen.core.progress import follow
from tuwen.retrieval.search import compute_exact
from tuwen.retrieval.vectors import Vectors
from tuwen.service.index.item_index import ItemIndex
from tuwen.service.index.items import RANGE_COLUMNS, SIDES, VALUE_COLUMNS
from tuwen.service.index.store import Hits, ItemFilter

MILVUS_URI, MILVUS_TOKEN = "TUWEN_MILVUS_URI", "TUWEN_MILVUS_TOKEN"
CONNECT_SECONDS, SEEN_SECONDS, ASK_AGAIN_SECONDS = 20, 300, 0.2
ANSWER_SECONDS = 10  # of a search or count, retries included; below the time of a request
INSERTED_ROWS = 1000
EXTRA_CANDIDATES = 32  # candidates beyond those asked for: float32 scores may order close ones differently
MOST_CANDIDATES = 16_384  # Milvus's own limit
COUNTS_KEPT = 256
MAX_VALUE_BYTES = 1024  # of a value that is filtered by
UNMEASURED = -1  # a measure that an item lacks; no range of a filter holds it
INNER_PRODUCT = {"metric_type": "IP"}  # of unit vectors the cosine
# How an index is built, by its kind and G, and how far it is searched, by candidates and G.
BUILT: Mapping[str, Callable[[int], dict[str, int]]] = {
    "FLAT": lambda items: {},
    "HNSW": lambda items: {"M": 32, "efConstruction": 200},
    "IVF_FLAT": lambda items: {"nlist": _count_cells(items)},
    "DISKANN": lambda items: {},
}
SEARCHED: Mapping[str, Callable[[int, int], dict[str, int]]] = {
    "FLAT": lambda candidates, items: {},
    "HNSW": lambda candidates, items: {"ef": max(128, 2 * candidates)},
    "IVF_FLAT": lambda candidates, items: {"nprobe": max(8, _count_cells(items) // 8)},
    "DISKANN": lambda candidates, items: {"search_list": max(128, candidates)},
}


def _count_cells(items: int) -> int:
    return min(65_536, max(1, round(4 * math.sqrt(items))))


class MilvusStore:
    """The collections of one index; several threads may ask at once."""

    def __init__(self, index: ItemIndex) -> None:
        """Connect, and bring there what is missing. Raises UserError where Milvus is not there or refuses."""
        self._index, self._settings = index, index.params["store"]
        self._client = _connect()
        self._names = {side: f"tuwen_{side}_{index.digest[:16]}" for side in SIDES}
        self._count = lru_cache(COUNTS_KEPT)(self._ask_count)
        with _explain():
            for side in SIDES:
                self._load(side)

    def search(self, side: str, queries: Vectors, k: int, keep: ItemFilter) -> list[Hits]:
        """Return the k best items that the filter keeps, for each query; queries [Q, D], unit rows.

        Raises UserError where Milvus does not answer.
        """
        vectors, wanted = self._index.codes[side].values, min(k + EXTRA_CANDIDATES, MOST_CANDIDATES)
        kind = self._settings["index"]
        with _explain():
            found = self._client.search(
                self._names[side],
                data=list(queries),
                limit=wanted,
                filter=write_expression(keep),
                search_params={**INNER_PRODUCT, "params": SEARCHED[kind](wanted, len(vectors))},
                consistency_level="Eventually",  # nothing changes once it is loaded
                timeout=ANSWER_SECONDS,
            )
        query = np.repeat(np.arange(len(queries)), [len(hits) for hits in found])
        item = np.array([hit["id"] for hits in found for hit in hits], np.int64)
        exact = compute_exact(queries, vectors, query, item)
        order = np.lexsort((item, -exact, query))
        best = (part[:k] for part in np.split(order, np.searchsorted(query, np.arange(1, len(queries)))))
        return [Hits(item[part], exact[part].astype(np.float32)) for part in best]

    def count(self, side: str, keep: ItemFilter) -> int:
        """Return how many items the filter keeps. Raises UserError where Milvus does not answer."""
        return len(self._index.codes[side].values) if keep == ItemFilter() else self._count(side, keep)

    def take_over(self) -> None:
        """Let the aliases lead to this index's collections. Raises UserError where Milvus does not answer."""
        with _explain():
            for side, name in self._names.items():
                self._point_alias(side, name)

    def drop(self) -> None:
        """Close the connection; collections stay for the next start, unless another index has taken over."""
        with suppress(UserError), _explain():  # a server that is away keeps all of them
            for side, name in self._names.items():
                if self._read_alias(side) not in (None, name):
                    self._client.drop_collection(name, timeout=ANSWER_SECONDS)
        self._client.close()

    def _load(self, side: str) -> None:
        """Make the collection and its index, and insert the rows that are not there yet."""
        client, name, total = self._client, self._names[side], len(self._index.codes[side].values)
        if not client.has_collection(name):
            self._create(side)
        client.load_collection(name)
        there = self._ask_count(side, ItemFilter(), consistency="Strong", seconds=SEEN_SECONDS)
        if there > total:  # rows that two brought at once, of which none is to be told from its twin
            if self._read_alias(side) == name:
                client.drop_alias(f"tuwen_{side}")
            client.drop_collection(name)
            self._create(side)
            client.load_collection(name)
            there = 0
        if there != total:
            first = there // INSERTED_ROWS * INSERTED_ROWS
            starts = range(first, total, INSERTED_ROWS)
            if there > first:  # a part of a batch; Milvus 2.3.5's upsert puts rows into wrong partitions
                client.delete(name, filter=f"row >= {first}")
            for start in follow(starts, f"load {side} into Milvus", len(starts)):
                client.insert(name, list(self._list_rows(side, slice(start, min(start + INSERTED_ROWS, total)))))
            client.flush(name)
            while client.describe_index(name, "vector").get("pending_index_rows", 0):
                time.sleep(ASK_AGAIN_SECONDS)  # Milvus builds the index by itself
            client.refresh_load(name)
        self._wait_until_seen(side, total)

    def _wait_until_seen(self, side: str, total: int) -> None:
        """Return once searches see all rows; Milvus's nodes take them over one after another."""
        deadline = time.monotonic() + SEEN_SECONDS
        while (there := self._ask_count(side, ItemFilter())) != total:
            if time.monotonic() > deadline:
                raise UserError(f"{MILVUS_URI}: {self._names[side]} holds {there} rows, expected {total}; drop it")
            time.sleep(ASK_AGAIN_SECONDS)

    def _create(self, side: str) -> None:
        from pymilvus import DataType, MilvusClient

        vectors, settings = self._index.codes[side].values, self._settings
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
        for column in VALUE_COLUMNS:
            is_key = column == "source" and settings["partitions"] > 1
            schema.add_field(column, DataType.VARCHAR, max_length=MAX_VALUE_BYTES, is_partition_key=is_key)
        for column in RANGE_COLUMNS:
            schema.add_field(column, DataType.INT64)
        built = MilvusClient.prepare_index_params()
        kind = settings["index"]
        built.add_index("vector", index_type=kind, params=BUILT[kind](len(vectors)), **INNER_PRODUCT)
        counts = {"num_shards": settings["shards"]}
        if settings["partitions"] > 1:
            counts["num_partitions"] = settings["partitions"]
        self._client.create_collection(self._names[side], schema=schema, index_params=built, **counts)

    def _list_rows(self, side: str, rows: slice) -> Iterator[dict[str, Any]]:
        table: pa.Table = self._index.tables[side].slice(rows.start, rows.stop - rows.start)
        items = table.select([*VALUE_COLUMNS, *RANGE_COLUMNS]).to_pylist()
        for row, (item, vector) in enumerate(
            zip(items, self._index.codes[side].values[rows], strict=True), rows.start
        ):
            values = {name: item[name] or "" for name in VALUE_COLUMNS}
            measures = {name: UNMEASURED if item[name] is None else item[name] for name in RANGE_COLUMNS}
            yield {"row": row, "vector": vector, **values, **measures}

    def _ask_count(
        self, side: str, keep: ItemFilter, consistency: str = "Eventually", seconds: float = ANSWER_SECONDS
    ) -> int:
        with _explain():
            (answer,) = self._client.query(
                self._names[side],
                filter=write_expression(keep),
                output_fields=["count(*)"],
                consistency_level=consistency,
                timeout=seconds,
            )
        return int(answer["count(*)"])

    def _read_alias(self, side: str) -> str | None:
        alias = f"tuwen_{side}"
        known: Any = self._client.list_aliases(timeout=ANSWER_SECONDS)  # its types say a list; it is a dict
        if alias not in known["aliases"]:  # pymilvus logs an error where one that the server lacks is described
            return None
        return str(self._client.describe_alias(alias, timeout=ANSWER_SECONDS)["collection_name"])

    def _point_alias(self, side: str, name: str) -> None:
        """Let the alias of a side lead to this collection, in one step."""
        alias = f"tuwen_{side}"
        if (before := self._read_alias(side)) is None:
            self._client.create_alias(name, alias)
        elif before != name:
            self._client.alter_alias(name, alias)


def write_expression(keep: ItemFilter) -> str:
    """Return a filter as Milvus's boolean expression; empty where it keeps all."""
    parts = [
        f"{name} in [{', '.join(json.dumps(value, ensure_ascii=False) for value in values)}]"
        for name, values in keep.values
    ]
    parts += [f"({name} >= {max(0, least)} and {name} <= {most})" for name, least, most in keep.ranges]
    return " and ".join(parts)


def _connect() -> Any:
    """Return a client of the server at URI."""
    if not (uri := os.environ.get(MILVUS_URI)):
        raise UserError(
            f"params.yaml: index.store.kind is milvus: set {MILVUS_URI}, such as http://127.0.0.1:19530"
        )
    try:
        from pymilvus import MilvusClient
    except ImportError:
        raise UserError(
            f"{MILVUS_URI}: pymilvus is not installed; pip install -c constraints.txt pymilvus, "
            "or take the exact store"
        ) from None
    with _explain():
        return MilvusClient(uri=uri, token=os.environ.get(MILVUS_TOKEN, ""), timeout=CONNECT_SECONDS)


@contextmanager
def _explain() -> Iterator[None]:
    """Raise UserError for what Milvus refuses or does not answer."""
    from grpc import RpcError
    from pymilvus import MilvusException

    try:
        yield
    except (MilvusException, RpcError) as error:
        raise UserError(
            f"{MILVUS_URI}: Milvus at {os.environ.get(MILVUS_URI)} says: {error}; see whether it runs, and "
            "whether this address is right"
        ) from None
