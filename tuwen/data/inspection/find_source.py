"""Which kind of source a folder is, by the names and the content of its files."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError
from tuwen.data.formats.image_files import is_hidden, is_image_name
from tuwen.data.formats.text_files import Reading, read_csv_rows, read_json_rows
from tuwen.data.inspection.columns import infer_columns
from tuwen.data.inspection.explain_files import explain_files
from tuwen.data.sources.contest import LABELLED
from tuwen.data.sources.table import TABLES
from tuwen.data.sources.webdataset import is_tar_name
from tuwen.data.sources.zero import LIST

TRIED_ROWS = 500  # of a table


def find_source(place: Path, encoding: str | None = None) -> tuple[dict[str, Any], str]:
    """Return (the settings of `source` for a folder or a table below inputs/, why they are so).

    encoding: of its text files, as a person says. Raises UserError where nothing, or more than one thing, could be
    meant.
    """
    said = {"encoding": encoding} if encoding else {}
    if not place.exists():
        raise UserError(f"{place}: not found; put your files into a folder below inputs/ and name it")
    if place.is_file():
        if place.suffix.lower() not in TABLES:
            raise UserError(f"{place}: {explain_files(place.parent, [place])}")
        return _describe_table(place.parent, place, said)
    files = list(_list_files(place))
    kinds = {
        "contest": [path for path in files if path.name == LABELLED],
        "chinese_clip": [path for path in files if path.name.endswith("_imgs.tsv")],
        "webdataset": [path for path in files if is_tar_name(path)],
        "zero": [path for path in files if LIST.fullmatch(path.name)],
    }
    found = {kind: paths for kind, paths in kinds.items() if paths}
    if len(found) > 1:
        shown = ", ".join(f"{kind} ({paths[0]})" for kind, paths in found.items())
        raise UserError(f"{place}: could be {shown}; name the folder of one of them")
    for kind, paths in found.items():
        root = paths[0].parent if kind == "chinese_clip" else place
        return {"kind": kind, "root": root.as_posix()} | said, f"{len(paths)} files such as {paths[0].name}"
    tables = [path for path in files if path.suffix.lower() in TABLES]
    if not tables:
        raise UserError(f"{place}: {explain_files(place, files)}")
    if len(tables) > 1:
        shown = ", ".join(str(path) for path in tables[:5])
        raise UserError(f"{place}: {len(tables)} tables: {shown}; name the one that holds the pairs")
    return _describe_table(place, tables[0], said)


def count_rows(source: dict[str, Any], readings: list[Reading] | None = None) -> int | None:
    """Return how many rows the table of a source has; None for another kind. readings: gets how it was read."""
    if source["kind"] != "table":
        return None
    path = Path(source["root"]) / source["file"]
    return sum(1 for _ in _read_rows(path, source.get("encoding"), readings))


def _list_files(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (Path(here) / name for name in sorted(names) if not is_hidden(name))


def _describe_table(root: Path, path: Path, said: dict[str, str]) -> tuple[dict[str, Any], str]:
    rows = list(islice(_read_rows(path, said.get("encoding")), TRIED_ROWS))
    if not rows:
        raise UserError(f"{path}: no rows below the header; each row names a picture and its caption")
    _check_first_line(path, list(rows[0]))
    columns = infer_columns(rows, root, str(path))
    source: dict[str, Any] = {"kind": "table", "root": root.as_posix(), "file": path.relative_to(root).as_posix()}
    source |= said if path.suffix.lower() != ".parquet" else {}
    source |= {"folder": columns.folder} if columns.folder else {}
    source |= {"image": columns.image, "captions": columns.captions}
    optional = {"group": columns.group, "category": columns.category, "split": columns.split}
    source |= {name: column for name, column in optional.items() if column}
    why = f"of its columns {', '.join(rows[0])}, {columns.image} leads to pictures"
    left = f"; {', '.join(columns.others)} also hold Chinese text: add what describes the picture"
    return source, why + (left if columns.others else "")


def _check_first_line(path: Path, header: list[str]) -> None:
    """Raise UserError where the first line is a row, or is cut at another delimiter than its ending says."""
    if named := [name for name in header if is_image_name(name)]:
        raise UserError(
            f"{path}: the first line should name the columns, but it holds a picture, {named[0]!r}; "
            "put a line such as `image,caption` before it"
        )
    other = next((mark for mark in "\t;|," if len(header) == 1 and mark in header[0]), None)
    if other:
        way = "rename it to .tsv" if other == "\t" else "save it with commas as .csv, or with tabs as .tsv"
        raise UserError(f"{path}: the header {header[0]!r:.80} is one column, divided by {other!r}; {way}")


def _read_rows(
    path: Path, encoding: str | None, readings: list[Reading] | None = None
) -> Iterator[dict[str, Any]]:
    match path.suffix.lower():
        case ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            try:
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(64):
                        yield from batch.to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{path}: not readable as Parquet: {error}; write the file anew") from None
        case ".jsonl":
            yield from (cells for _, cells in read_json_rows(path, (), encoding, readings))
        case suffix:
            delimiter = "\t" if suffix == ".tsv" else ","
            yield from (cells for _, cells in read_csv_rows(path, (), delimiter, encoding, readings))
