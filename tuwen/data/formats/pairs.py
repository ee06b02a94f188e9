"""The tables: one set of pairs is a folder with `images`, `texts` and `pairs` as Parquet.

    <set>/images.parquet   image_id, positive_id, group, category, split, shard, offset, size, sha256, …
    <set>/texts.parquet    text_id, caption, …
    <set>/pairs.parquet    pair_id, image_id, text_id, label, …
    <set>/shards/*.tar     the original bytes (raw sets, valid, test); other sets point into those
    <set>/files.json       raw sets alone: how the text files of the source were read, where it has some
    <set>/shards.parquet   corpus alone: shards that stay where they are
    <set>/limits.json      clean corpus alone, beside shards that it lists: what their rows may be
    <set>/held_out.parquet clean corpus alone: the images of valid and test, which no such shard may show

In a task set (t2i, i2t) `images` and `texts` are queries and gallery; `pairs` is empty where the truth is unknown.
`shard` is a path relative to the data root (the folder that holds `raw/` and `clean/`). The bytes of an image
without `shard` could not be had (`fault` names the reason); a model is shown a blank image in its place.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tuwen.core.errors import UserError

TEXT_FILES = "files.json"
RowNumbers = npt.NDArray[np.int64]

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("positive_id", pa.string()),  # the original image: rows that share it are siblings
        ("group", pa.string()),  # what must not be split; null where the source does not know
        ("category", pa.string()),  # null where the source has none
        ("split", pa.string()),  # the source's own train, valid or test; null where it has none
        ("shard", pa.string()),
        ("offset", pa.int64()),  # bytes from the start of the shard to the member's data
        ("size", pa.int64()),  # bytes
        ("sha256", pa.string()),
        ("source", pa.string()),  # clean/corpus: the name in params.yaml's corpus; null elsewhere
        ("fault", pa.string()),  # why the source could not give the bytes; null where it gave them
        ("file", pa.string()),  # where the source has the row: file relative to the source's root ...
        ("row", pa.int64()),  # ... and its line or record, counted from 1; null where the file is the row
    ]
)
TEXTS = pa.schema([("text_id", pa.string()), ("caption", pa.string()), ("file", pa.string()), ("row", pa.int64())])
PAIRS = pa.schema(
    [
        ("pair_id", pa.string()),
        ("image_id", pa.string()),
        ("text_id", pa.string()),
        ("label", pa.int8()),  # 0: a matching set says that the caption does not fit; 1 or null: it fits
        ("file", pa.string()),
        ("row", pa.int64()),
    ]
)
SHARDS = pa.schema(
    [
        ("address", pa.string()),  # path from the repository's root or absolute, or a URL that fsspec opens
        ("size", pa.int64()),  # bytes
        ("sha256", pa.string()),
        ("pairs", pa.int64()),
        ("caption_key", pa.string()),  # of the caption in json members
        ("source", pa.string()),  # the name in params.yaml's corpus
    ]
)

HELD_OUT = pa.schema(
    [
        ("sha256", pa.string()),
        ("thumbnail", pa.binary()),  # of `looks.Look`; null where the image is blank, to which nothing is near
    ]
)


class Limits(NamedTuple):
    """What the rows of shards that stay where they are may be, as `validate` holds all others to it."""

    max_chars: int
    max_pixels: int
    min_side_px: int


LIMITS = "limits.json"  # beside shards.parquet, where that lists any

RAW_SETS = ("labelled", "t2i", "i2t")  # and corpus/<name> for every corpus source
CLEAN_SETS = ("train", "valid", "test", "bank", "corpus", "t2i", "i2t")

# Why a source could not give an image's bytes: no such file; a path that leaves the source's root; bytes that
# cannot be taken out of their record, such as broken base64 or a cut tar member.
FAULTS = ("missing", "not_fetched", "outside_source", "unreadable_record")


@dataclass(frozen=True)
class PairSet:
    """One set in memory: three Arrow tables with the schemas above."""

    images: pa.Table
    texts: pa.Table
    pairs: pa.Table


def write_pair_set(folder: Path, pair_set: PairSet) -> None:
    """Write the three tables into `folder`; equal tables give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in (("images", IMAGES), ("texts", TEXTS), ("pairs", PAIRS)):
        write_table(folder / f"{name}.parquet", getattr(pair_set, name).cast(schema))


def read_pair_set(folder: Path) -> PairSet:
    """Read the set in `folder`. Raises UserError when a table is missing or has other columns."""
    return PairSet(
        *(
            read_table(folder / f"{name}.parquet", schema)
            for name, schema in (("images", IMAGES), ("texts", TEXTS), ("pairs", PAIRS))
        )
    )


def write_table(path: Path, table: pa.Table) -> None:
    """Write one Parquet file without anything that depends on the time or the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def read_table(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read one Parquet file. Raises UserError when it is missing, none, or its columns differ from `schema`."""
    if not path.is_file():
        raise UserError(f"{path}: this table is missing; run the stage that makes it with `dvc repro`")
    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise UserError(f"{path}: cannot be read as Parquet ({error}); make this table anew") from None
    if schema is not None and table.schema.names != schema.names:
        raise UserError(f"{path}: columns {table.schema.names} found, {schema.names} expected")
    return table


def stream_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row, counted from 1, column -> value) of a Parquet table, as `read_csv_rows` does of a CSV."""
    yield from enumerate(read_table(path).to_pylist(), 1)


def select_true_pairs(pair_set: PairSet) -> pa.Table:
    """Return the pairs whose caption fits the image: those of a matching set with label 0 are left out."""
    return pair_set.pairs.filter(pc.not_equal(pc.fill_null(pair_set.pairs["label"], 1), 0))


def find_true_rows(pair_set: PairSet) -> tuple[RowNumbers, RowNumbers]:
    """Return (image row, text row) of the P true pairs, int64 [P] each."""
    return _both_rows(pair_set, select_true_pairs(pair_set))


def find_unfit_rows(pair_set: PairSet) -> tuple[RowNumbers, RowNumbers]:
    """Return (image row, text row) of the F pairs with label 0, int64 [F] each; only a matching set has any."""
    return _both_rows(pair_set, pair_set.pairs.filter(pc.equal(pair_set.pairs["label"], 0)))


def _both_rows(pair_set: PairSet, pairs: pa.Table) -> tuple[RowNumbers, RowNumbers]:
    return _rows(pairs, pair_set.images, "image_id"), _rows(pairs, pair_set.texts, "text_id")


def _rows(pairs: pa.Table, table: pa.Table, key: str) -> RowNumbers:
    row_of = {id_: row for row, id_ in enumerate(table[key].to_pylist())}
    return np.array([row_of[id_] for id_ in pairs[key].to_pylist()], dtype=np.int64)


def read_shards(folder: Path) -> pa.Table:
    """Read the list of corpus shards that stay where they are; no rows where the set in `folder` has none."""
    path = folder / "shards.parquet"
    return read_table(path, SHARDS) if path.is_file() else SHARDS.empty_table()
