"""An index in memory: its tables and vectors, mapped from the folder, and what its manifest says."""

from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.errors import UserError
from tuwen.data.formats import manifest
from tuwen.data.formats.json_file import read_json
from tuwen.retrieval.quantised.codes import Codes, decode_vectors, open_codes
from tuwen.retrieval.vectors import Rows, Vectors
from tuwen.service.index.items import ITEM_SCHEMA, RANGE_COLUMNS, SIDES, VALUE_COLUMNS


class MismatchError(UserError):
    """A model and an index that are not of each other: to try the same two again is in vain."""


class ItemIndex:
    """An index that stands: whole, as its manifest names every file by digest."""

    def __init__(self, folder: Path) -> None:
        """Map the files of `folder`. Raises UserError for one that is missing or not as the manifest says."""
        self.folder = folder
        self.digest = _require_whole(folder)
        body = read_json(folder / manifest.MANIFEST)
        self.params: Mapping[str, Any] = body["params"]
        if missing := {"calibration", "growth", "licences", "reranking"} - set(self.params):
            raise UserError(
                f"{folder / manifest.MANIFEST}: of older code, it lacks {', '.join(sorted(missing))}; make "
                "the index anew: `dvc repro index`"
            )
        self.model_digest: str = body["inputs"]["model"]
        self.tables: dict[str, pa.Table] = {side: _map_table(folder / f"{side}.arrow") for side in SIDES}
        self.codes: dict[str, Codes] = {side: open_codes(folder, side) for side in SIDES}
        # both here, where an index is opened, and not as the first request waits for them
        self._by_id = {side: _sort_by_id(table) for side, table in self.tables.items()}
        self.facets = _count_facets(self.tables["images"])  # what filters may name

    def require_model(self, model: Path) -> None:
        """Raise MismatchError unless the vectors are of the very model in this folder."""
        if (digest := manifest.hash_path(model)) != self.model_digest:
            raise MismatchError(
                f"{self.folder / manifest.MANIFEST}: an index of another model: it names {self.model_digest}, but "
                f"{model} is {digest}; make one of it: `dvc repro index`"
            )

    def find_row(self, side: str, item_id: str) -> int | None:
        """Return the row of an item, None where the index has none of this id."""
        ids, order = self.tables[side]["id"], self._by_id[side]
        place = bisect_left(order, item_id, key=lambda row: ids[int(row)].as_py())
        return int(order[place]) if place < len(order) and ids[int(order[place])].as_py() == item_id else None

    def read_vectors(self, side: str, rows: Rows) -> Vectors:
        """Return the vectors of items, float32 and of length 1, whatever they are kept as."""
        codes = self.codes[side]
        vectors = decode_vectors(codes, rows)
        if codes.values.dtype != np.float32:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def read_row(self, side: str, row: int) -> dict[str, Any]:
        """Return an item, as items.ITEM_SCHEMA has it."""
        (item,) = self.read_rows(side, np.array([row]))
        return item

    def read_rows(self, side: str, rows: Rows) -> list[dict[str, Any]]:
        """Return items in the order of `rows`."""
        return list(self.tables[side].take(pa.array(rows)).to_pylist())


def _sort_by_id(table: pa.Table) -> Rows:
    """Return the rows in the order of their ids: four bytes an item, where a dict takes over a hundred."""
    order: Rows = pc.sort_indices(table["id"]).to_numpy().astype(np.uint32)
    return order


def _count_facets(images: pa.Table) -> dict[str, Any]:
    """Return what filters may name: value -> count, most first, and [least, most] of what is measured."""
    counts: dict[str, Any] = {name: _count_values(images[name].drop_null()) for name in VALUE_COLUMNS}
    ranges = {name: pc.min_max(images[name]).as_py() for name in RANGE_COLUMNS}
    return counts | {name: [found["min"] or 0, found["max"] or 0] for name, found in ranges.items()}


def _count_values(column: pa.ChunkedArray) -> dict[str, int]:
    counts = {one["values"]: one["counts"] for one in pc.value_counts(column).to_pylist()}
    return dict(sorted(counts.items(), key=lambda one: -one[1]))


def _require_whole(folder: Path) -> str:
    """Return the digest of the index; raise UserError unless every file is as its manifest says."""
    place = folder / manifest.MANIFEST
    files = read_json(place, "run `dvc repro index`").get("files", {})
    for name, digest in files.items():
        path = folder / name
        if not path.is_file() or manifest.hash_file(path) != digest:
            raise UserError(f"{path}: missing, or not as {place} says; remove {folder} and run `dvc repro index`")
    if not {f"{side}.npy" for side in SIDES} <= set(files):
        raise UserError(f"{place}: not of an index; run `dvc repro index`")
    return manifest.hash_file(place)


def _map_table(path: Path) -> pa.Table:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    if table.schema.names != ITEM_SCHEMA.names:
        raise UserError(
            f"{path}: columns {table.schema.names} found, {ITEM_SCHEMA.names} expected; `dvc repro index`"
        )
    return table
