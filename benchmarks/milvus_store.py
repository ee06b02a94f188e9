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

from tuwen.retrieval.quantised.codes import Codes
from tuwen.service.index.exact import ExactStore
from tuwen.service.index.items import ITEM_SCHEMA
from tuwen.service.index.milvus import MilvusStore
from tuwen.service.index.store import ItemFilter

DIMENSIONS, QUERIES, CLUSTER_ITEMS = 512, 200, 50


def make_index(kind: str, count: int) -> Any:
    """Return an index of `count` images in clusters."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(count // CLUSTER_ITEMS, DIMENSIONS))
    vectors = centres[draw.integers(len(centres), size=count)] + 0.7 * draw.normal(size=(count, DIMENSIONS))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    table = pa.Table.from_pylist(
        [{"id": str(n), "source": "art", "split": "test"} for n in range(count)], ITEM_SCHEMA
    )
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
    noise = np.random.default_rng(1).normal(size=(QUERIES, DIMENSIONS))
    queries = index.codes["images"].values[:: count // QUERIES][:QUERIES] + 0.02 * noise
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
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
