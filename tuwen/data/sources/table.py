"""Any CSV, TSV, JSONL or Parquet file with an image column and caption columns."""

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tuwen.core.errors import UserError
from tuwen.core.params import TableSource
from tuwen.core.progress import Extent
from tuwen.data.formats.image_files import (
    FoundFile,
    ImageFiles,
    decode_base64,
    find_extension,
    is_base64_image,
)
from tuwen.data.formats.impostors import WORKBOOKS, refuse_impostor
from tuwen.data.formats.text_files import Reading, TextRow, read_csv_rows, read_json_rows
from tuwen.data.sources.files import follow_rows, make_notes, read_image_file
from tuwen.data.sources.records import SPLIT_NAMES, ImageRecord, PairRecord, Record, SourceSets, TextRecord
from tuwen.data.sources.url_images import fetch_ahead, is_url, read_url_image

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")  # the endings of the files that are read
DELIMITER_OF = {".csv": ",", ".tsv": "\t"}
BATCH_ROWS = 64  # of a Parquet file, which may hold the images' bytes
INFINITIES = (float("inf"), float("-inf"))
LONGEST_NAME = 1 << 12  # characters: what is longer is no path, and base64 must not be searched for on the disk
PARQUET_BUFFER_BYTES = 1 << 20  # read from a Parquet file at a time, however large its row groups are


def read(source: TableSource, readings: list[Reading], extent: Extent) -> SourceSets:
    """Return the pairs of the table; an image that several rows name alike is one image with several captions.

    Raises UserError where the table is missing, of another form, or lacks a column that params.yaml names.
    """
    path = Path(source.root) / source.file
    if PurePosixPath(source.file).is_absolute() or ".." in PurePosixPath(source.file).parts:
        raise UserError(
            f"params.yaml: file must lie under root ({source.root}), got {source.file!r}; move it there"
        )
    if not path.is_file():
        raise UserError(f"{path}: not found; `file` in params.yaml names the table, from `root`")
    rows = fetch_ahead(_rows(source, path, readings, extent), source.image)
    return {"labelled": _records(source, path, follow_rows(rows, extent, readings))}


def _rows(source: TableSource, path: Path, readings: list[Reading], extent: Extent) -> Iterator[TextRow]:
    extent.begin("rows", 0)
    optional = (source.image_id, source.group, source.category, source.split)
    columns = list(dict.fromkeys([source.image, *source.captions, *(name for name in optional if name)]))
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        *others, last = TABLES
        expected = f"{', '.join(others)} or {last}"
        raise UserError(f"{path}: found {path.suffix!r}, expected {expected}; convert or rename it")
    if suffix == ".parquet":
        return _parquet_rows(path, columns, extent)
    if suffix == ".jsonl":
        return read_json_rows(path, columns, source.encoding, readings)
    return read_csv_rows(path, columns, DELIMITER_OF[suffix], source.encoding, readings)


def _parquet_rows(path: Path, columns: list[str], extent: Extent) -> Iterator[TextRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path, buffer_size=PARQUET_BUFFER_BYTES, pre_buffer=False) as file:
            names, extent.total = file.schema_arrow.names, file.metadata.num_rows
            if missing := [name for name in columns if names.count(name) != 1]:
                raise UserError(f"{path}: {missing} not found once, found {names}; add or rename columns")
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                for values in batch.to_pylist():
                    row += 1
                    yield row, values
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        refuse_impostor(path, "Parquet", WORKBOOKS)
        raise UserError(f"{path}: not readable as Parquet after row {row}: {error}; write the file anew") from None


def _records(source: TableSource, path: Path, rows: Iterator[TextRow]) -> Iterator[Record]:
    file, files = PurePosixPath(source.file).as_posix(), ImageFiles(Path(source.root, source.folder or ""))
    described: dict[str, str] = {}  # image_id -> description of the image that was yielded last
    captions: dict[str, int] = {}  # image_id -> how many so far
    for row, cells in rows:
        place = f"{path}:{row}"
        image = _read_cell(cells[source.image], files, place)
        yield from make_notes(image.found, image.name)
        group, category, split = (
            _optional_text(cells, name, place) for name in (source.group, source.category, source.split)
        )
        if split and split not in SPLIT_NAMES:
            raise UserError(f"{place}: the split is {split!r:.80}, expected {', '.join(SPLIT_NAMES)}, or nothing")
        split = SPLIT_NAMES[split] if split else None
        image_id = _text(cells[source.image_id], place) if source.image_id else image.key or f"{file}:{row}"
        # another image of this id, or the same in another group or split, is a row of its own: validate reports it
        description = "\0".join((image.key, group or "", category or "", split or "")).rstrip("\0")
        if described.get(image_id) != description:
            described[image_id] = image_id if description == image_id else description  # one object for equal ones
            record = ImageRecord(image_id, None, file, row, None, None, group, category, split)
            yield from _make_image(image, files, record, source.folder)
        for caption in _captions(source, cells, place):
            captions[image_id] = captions.get(image_id, 0) + 1
            text_id = f"{image_id}#{captions[image_id]}"
            yield TextRecord(text_id, caption, file, row)
            yield PairRecord(text_id, image_id, text_id, file, row)


class _ImageCell(NamedTuple):
    """What an image cell holds: bytes, broken base64, else the name of a file."""

    key: str  # tells images apart: what was written for one file in two ways is equal; "" for an empty cell
    data: bytes | None = None
    fault: str | None = None
    name: str = ""  # of the file, as it is written ...
    found: FoundFile = FoundFile(None, "")  # ... and what it means


def _read_cell(cell: Any, files: ImageFiles, place: str) -> _ImageCell:
    if isinstance(cell, dict):  # as Hugging Face's datasets write it: {"bytes": …, "path": …}
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        whole = find_extension(cell) is None and is_base64_image(cell)
        return _decode_cell(cell) if whole else _ImageCell(hashlib.sha256(cell).hexdigest(), cell)
    if cell is None or isinstance(cell, str):
        name = cell or ""
        if is_url(name):
            return _ImageCell(name, *read_url_image(name))
        found = files.find(name) if len(name) < LONGEST_NAME else FoundFile(None, name)
        if found.path is None and is_base64_image(name[:LONGEST_NAME].encode("utf-8", "replace")):
            return _decode_cell(name.encode("utf-8", "replace"))
        return _ImageCell(found.name if found.path else name, name=name, found=found)
    raise UserError(f"{place}: the picture is {cell!r:.80}, expected a path, bytes or base64; name another column")


def _decode_cell(text: bytes) -> _ImageCell:
    data = decode_base64(text)
    key = hashlib.sha256(text if data is None else data).hexdigest()
    return _ImageCell(key, data or None, None if data else "unreadable_record")


def _make_image(image: _ImageCell, files: ImageFiles, record: ImageRecord, folder: str | None) -> Iterator[Record]:
    """Yield `record` with the bytes of the cell, or of its file, which is then its place; or with the fault."""
    if image.data is not None or image.fault:
        yield record._replace(data=image.data, fault=image.fault)
        return
    data, found = read_image_file(files, image.name)
    if data is None:
        yield record._replace(fault=found.fault)
    else:
        yield record._replace(data=data, file=PurePosixPath(folder or "", found.name).as_posix(), row=None)


def _optional_text(cells: dict[str, Any], column: str | None, place: str) -> str | None:
    return (_text(cells[column], place) or None) if column else None


def _captions(source: TableSource, cells: dict[str, Any], place: str) -> list[str]:
    """Return the row's captions; of several columns only those that are not empty, and one empty where all are."""
    captions: list[str] = []
    for column in source.captions:
        cell = cells[column]
        captions += [_text(value, place) for value in cell] if isinstance(cell, list) else [_text(cell, place)]
    if len(source.captions) > 1:
        captions = [caption for caption in captions if caption]
    return captions or [""]


def _text(value: Any, place: str) -> str:
    if value is None or value != value:  # NaN is how pandas writes a missing number
        return ""
    if isinstance(value, str | int | float) and not isinstance(value, bool) and value not in INFINITIES:
        return str(value)
    raise UserError(f"{place}: found {value!r:.80}, expected a text; name another column")
