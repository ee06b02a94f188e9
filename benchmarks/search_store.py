"""The exact store alone, over made vectors: what `search_service.py store` measures."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from tuwen.retrieval.quantised.codes import Codes
from tuwen.service.index.exact import ExactStore
from tuwen.service.index.items import ITEM_SCHEMA
from tuwen.service.index.store import ItemFilter

DIMENSIONS, QUERIES, K = 512, 64, 10
LEAST, STEP = np.float32(-0.25), np.float32(0.5 / 255)  # of int8: hardly a number of these vectors lies beyond
FEW = ItemFilter(values=(("source", ("labelled",)),))  # a tenth of the items
# name, filter, at once
WAYS = (("a query", ItemFilter(), 1), ("a query of 32", ItemFilter(), 32), ("a query, filtered", FEW, 1))


class MadeIndex:
    """Random unit vectors on disk, as an index has them, and an item's source for each."""

    def __init__(self, folder: Path, rows: int, dtype: str) -> None:
        draw, path = np.random.default_rng(0), folder / f"{rows}-{dtype}.npy"
        made = np.lib.format.open_memmap(path, "w+", dtype, (rows, DIMENSIONS))
        for start in range(0, rows, 10_000):
            block = draw.normal(size=(min(10_000, rows - start), DIMENSIONS)).astype(np.float32)
            block /= np.linalg.norm(block, axis=1, keepdims=True)
            if dtype == "int8":
                block = np.rint((block - LEAST) / STEP).clip(0, 255) - 128
            made[start : start + 10_000] = block
        made.flush()
        vectors = np.load(path, mmap_mode="c")
        scale = np.repeat([[LEAST], [STEP]], DIMENSIONS, axis=1) if dtype == "int8" else None
        nulls = {name: pa.nulls(rows, ITEM_SCHEMA.field(name).type) for name in ITEM_SCHEMA.names}
        nulls["source"] = pa.array(["art" if n % 10 else "labelled" for n in range(rows)])
        table = pa.table(nulls, schema=ITEM_SCHEMA)
        self.codes, self.tables = {"images": Codes(vectors, scale)}, {"images": table}


def time_store(rows: int, dtype: str) -> Iterator[tuple[str, float]]:
    """Yield milliseconds to open the store, and a query's, the median: alone, 32 at once, and under a filter."""
    torch.set_num_threads(1)  # as the service does
    with tempfile.TemporaryDirectory() as folder:
        index = MadeIndex(Path(folder), rows, dtype)
        start = time.monotonic()
        store = ExactStore(index)  # type: ignore[arg-type]  # has what a search reads
        yield "opened", 1000 * (time.monotonic() - start)
        queries = np.random.default_rng(1).normal(size=(QUERIES, DIMENSIONS)).astype(np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        for name, keep, step in WAYS:
            spent = []
            for turn in range(0, QUERIES, step):
                start = time.monotonic()
                store.search("images", queries[turn : turn + step], K, keep)
                spent.append((time.monotonic() - start) / step)
            yield name, 1000 * float(np.median(spent))
        store.drop()
