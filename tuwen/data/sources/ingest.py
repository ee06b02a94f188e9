"""Records of a source -> raw sets: tables in row groups, images in tar shards, in bounded memory.

Every row is kept and nothing is judged here, which is the work of `validate`.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tuwen.core.params import Source
from tuwen.core.progress import Extent, follow
from tuwen.data import sources
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.json_file import write_json
from tuwen.data.formats.shards import ShardWriter
from tuwen.data.formats.text_files import Reading
from tuwen.data.sources.records import ImageRecord, NoteRecord, PairRecord, Record, TextRecord

GROUP_ROWS = 1 << 16  # rows of a Parquet row group ...
GROUP_CHARS = 1 << 26  # ... and its most characters, so that long captions cannot fill the memory
MOST_EXAMPLES = 5  # of a note


def ingest(source: Source, raw: Path) -> None:
    """Write `raw/labelled`, `raw/t2i` and `raw/i2t`; a set that the source lacks has empty tables.

    What an earlier run left there is removed. Raises UserError where a file of the source is not of its form.
    """
    readings = list[Reading]()
    extent = Extent()
    sets = sources.read_source(source, readings, extent)
    for name in pairs.RAW_SETS:
        _write(sets.get(name, iter(())), raw.parent, raw / name, extent)
        _write_readings(raw / name, readings, source)
    for name in pairs.RAW_SETS:
        manifest.write_manifest(raw / name, {}, {})


def ingest_corpus(source: Source, folder: Path) -> None:
    """Write one corpus source, its labelled pairs, to `folder` = `<data>/raw/corpus/<name>`.

    A list of WebDataset shards is written as `shards.parquet` beside empty tables: the shards stay where they are.
    """
    stays = source.kind == "webdataset" and source.is_streamed
    readings, extent = list[Reading](), Extent()
    records = iter(()) if stays else sources.read_source(source, readings, extent)["labelled"]
    _write(records, folder.parents[2], folder, extent)
    if stays and source.kind == "webdataset":
        from tuwen.data.sources import webdataset

        pairs.write_table(folder / "shards.parquet", webdataset.read_shard_list(source, readings))
    _write_readings(folder, readings, source)
    manifest.write_manifest(folder, {}, {})


def _write(records: Iterable[Record], data: Path, folder: Path, extent: Extent) -> None:
    """Write the tables and shards of one raw set; `data` is what the shards' paths start from."""
    if folder.exists():
        shutil.rmtree(folder)  # may hold shards of an interrupted run that no table names
    folder.mkdir(parents=True)
    counts, notes = Counter[str](), _Notes()
    with ExitStack() as open_files:
        shards = open_files.enter_context(ShardWriter(data, f"{folder.relative_to(data).as_posix()}/shards"))
        images = open_files.enter_context(_Table(folder / "images.parquet", pairs.IMAGES, pairs.IMAGES.names))
        texts = open_files.enter_context(_Table(folder / "texts.parquet", pairs.TEXTS, TextRecord._fields))
        links = open_files.enter_context(_Table(folder / "pairs.parquet", pairs.PAIRS, PairRecord._fields))
        for record in follow(records, f"ingest {folder.name}, pairs", extent, _count_pair):
            match record:
                case ImageRecord():
                    counts[f"pictures {record.fault}" if record.fault else "pictures"] += 1
                    if record.fault:
                        notes.add(f"pictures {record.fault}", record.image_id)
                    images.add(_image_row(record, shards))
                case TextRecord():
                    counts["texts"] += 1
                    texts.add(record, len(record.caption))
                case PairRecord():
                    counts["pairs"] += 1
                    links.add(record)
                case NoteRecord():
                    notes.add(record.what, record.example)
    notes.write(folder)
    summary = ", ".join(f"{what} {n}" for what, n in sorted(counts.items()))
    print(f"{folder}: {summary or 'empty'}", file=sys.stderr)


def _count_pair(record: Record) -> int:
    return int(isinstance(record, PairRecord))


def _write_readings(folder: Path, readings: list[Reading], source: Source) -> None:
    """Write how the set's text files were read, where it has some, and empty the list for the next set."""
    root = Path(source.root)
    rows = [one._replace(file=Path(one.file).relative_to(root).as_posix())._asdict() for one in readings]
    if rows:
        write_json(folder / pairs.TEXT_FILES, rows)
    readings.clear()


def _image_row(record: ImageRecord, shards: ShardWriter) -> tuple[Any, ...]:
    """Return the row of `images`; the image's bytes go into a shard."""
    values = record._asdict() | {"positive_id": record.positive_id or record.image_id}
    if record.data is None:
        assert record.fault in pairs.FAULTS, record.fault
    else:
        assert record.fault is None, record.fault
        values |= shards.add(record.image_id, record.data)._asdict()
    return tuple(values.get(name) for name in pairs.IMAGES.names)


class _Notes:
    """What a person should know of a set: how often, and the first examples."""

    def __init__(self) -> None:
        self._notes: dict[str, dict[str, Any]] = {}

    def add(self, what: str, example: str) -> None:
        """Count one case."""
        note = self._notes.setdefault(what, {"count": 0, "examples": []})
        note["count"] += 1
        if len(note["examples"]) < MOST_EXAMPLES:
            note["examples"].append(example[:200])

    def write(self, folder: Path) -> None:
        """Print the notes, and write them to `folder`/notes.json where there are any."""
        for what, note in sorted(self._notes.items()):
            print(f"{folder}: {what}: {note['count']}, such as {note['examples'][0]!r}", file=sys.stderr)
        if self._notes:
            write_json(folder / "notes.json", self._notes, sort_keys=True)


class _Table:
    """One Parquet file that grows by row groups; equal rows give equal bytes."""

    def __init__(self, path: Path, schema: pa.Schema, fields: Sequence[str]) -> None:
        """fields: the columns in the order in which a row gives them."""
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._schema, self._fields = schema, fields
        self._rows: list[tuple[Any, ...]] = []
        self._chars = 0

    def __enter__(self) -> "_Table":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def add(self, row: tuple[Any, ...], chars: int = 0) -> None:
        """Append one row; chars: the length of its text."""
        self._rows.append(row)
        self._chars += chars
        if len(self._rows) >= GROUP_ROWS or self._chars >= GROUP_CHARS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns: dict[str, Sequence[Any]] = dict(zip(self._fields, zip(*self._rows, strict=True), strict=True))
            for name in (name for name in columns if name.endswith("_id")):
                columns[name] = [
                    value or None for value in columns[name]
                ]  # an empty id is none, which validate reports
            self._writer.write_table(pa.table({name: columns[name] for name in self._schema.names}, self._schema))
        self._rows, self._chars = [], 0
