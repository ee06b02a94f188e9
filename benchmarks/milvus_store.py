"""The Milvus store beside our own exact search: times, recall.    python -m benchmarks.milvus_store KIND [ITEMS]

KIND: FLAT, HNSW, IVF_FLAT or DISKANN, at TUWEN_MILVUS_URI. Vectors lie in clusters, as those of real pictures do;
of independent ones nothing but FLAT finds much. Single queries, one after another.
"""

import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.made_vectors import DIMENSIONS, draw_queries, fill_with_clusters
from tuwen.retrieval.quantised.codes import Codes
from tuwen.service.index.exact import ExactStore
from tuwen.service.index.items import ITEM_SCHEMA
from tuwen.service.index.milvus import MilvusStore
from tuwen.service.index.store import ItemFilter

QUERIES = 200


def make_index(kind: str, count: int) -> Any:
    """Return an index of `count` images in clusters."""
    vectors = np.empty((count, DIMENSIONS), np.float32)
    fill_with_clusters(vectors, seed=0)
    columns: dict[str, Any] = {name: pa.nulls(count, ITEM_SCHEMA.field(name).type) for name in ITEM_SCHEMA.names}
    columns |= {"id": pa.array(np.arange(count)).cast(pa.string())}
    columns |= {"source": pa.repeat("art", count), "split": pa.repeat("test", count)}
    table = pa.table(columns, schema=ITEM_SCHEMA)
    settings = {"kind": "milvus", "index": kind, "shards": 1, "partitions": 1}
    codes = {"texts": Codes(vectors[:10]), "images": Codes(vectors)}
    tables = {"texts": table.slice(0, 10), "images": table}
    digest = f"{count:08d}{kind.encode().hex():0<16}"
    return SimpleNamespace(codes=codes, tables=tables, digest=digest, params={"store": settings})


def main() -> None:
    """Print how long loading took, milliseconds of both stores, and how many of the true first ten are found."""
    kind, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 50_000
    index = make_index(kind, count)
    start = time.perf_counter()
    store, exact = MilvusStore(index), ExactStore(index)
    loaded = time.perf_counter() - start
    queries = draw_queries(index.codes["images"].values, QUERIES)
    answers, milliseconds = {}, {}
    for name, one in (("milvus", store), ("exact", exact)):
        took, answers[name] = [], []
        for query in queries:
            start = time.perf_counter()
            answers[name] += one.search("images", query[None], 10, ItemFilter())
            took.append(1000 * (time.perf_counter() - start))
        milliseconds[name] = np.quantile(took[QUERIES // 10 :], (0.5, 0.95)).round(1).tolist()
    pairs = zip(answers["milvus"], answers["exact"], strict=True)
    recall = float(np.mean([np.isin(own.rows, found.rows).mean() for found, own in pairs]))
    print(f"{kind}, {count:,} x {DIMENSIONS}: loaded in {loaded:.0f} s, recall@10 {recall:.3f}")
    print(f"p50 and p95 in ms: Milvus {milliseconds['milvus']}, exact {milliseconds['exact']}")
    store.drop()


if __name__ == "__main__":
    main()
