"""The contest's attachments: labelled pairs and both tasks, found by the names of their files.

ImageWordData.csv  image_id,caption   labelled pairs
word_test.csv      text_id,caption    t2i: the queries, texts ...
image_data.csv     image_id           ... and the gallery, images
image_test.csv     image_id           i2t: the queries, images ...
word_data.csv      text_id,caption    ... and the gallery, texts
Images lie in the folder `ImageData` beside the table that names them.
"""

import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from tuwen.core.errors import UserError
from tuwen.core.params import ContestSource
from tuwen.core.progress import Extent
from tuwen.data.formats.image_files import ImageFiles, is_hidden, is_image_name
from tuwen.data.formats.text_files import Reading, read_csv_rows
from tuwen.data.sources.files import (
    follow_bytes,
    follow_rows,
    make_notes,
    make_relative,
    measure_sizes,
    read_image_file,
)
from tuwen.data.sources.records import ImageRecord, NoteRecord, PairRecord, Record, SourceSets, TextRecord

LABELLED = "ImageWordData.csv"
TASK_TABLES = {  # task -> texts, images
    "t2i": ("word_test.csv", "image_data.csv"),
    "i2t": ("word_data.csv", "image_test.csv"),
}
IMAGE_TABLES = (LABELLED, *(images for _, images in TASK_TABLES.values()))
IMAGE_DATA = "ImageData"


def read(source: ContestSource, readings: list[Reading], extent: Extent) -> SourceSets:
    """Return the labelled pairs, and each task whose two files are there; images in the order of their table.

    Raises UserError where a file is missing, stands in two folders, or has another header.
    """
    root = Path(source.root)
    tables = _find_tables(root)
    labelled = _labelled(root, tables[LABELLED], source.encoding, readings, extent)
    sets: dict[str, Iterator[Record]] = {"labelled": labelled}
    for name, (texts, images) in TASK_TABLES.items():
        missing = [file for file in (texts, images) if file not in tables]
        if len(missing) == 1:
            raise UserError(
                f"{root}: {missing[0]} not found, half of the task {name}; add it, or take out the other"
            )
        if not missing:
            sets[name] = _task(root, tables[texts], tables[images], source.encoding, readings, extent)
    return sets


def _find_tables(root: Path) -> dict[str, Path]:
    """Return file name -> path under `root`. Links to folders are not followed, as DVC sees nothing of them."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; `root` in params.yaml must name the contest's attachments")
    names = {LABELLED, *(name for files in TASK_TABLES.values() for name in files)}
    tables: dict[str, Path] = {}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name != IMAGE_DATA and not is_hidden(name))
        for name in names.intersection(files):
            if name in tables:
                raise UserError(f"{root}: {name} found twice, in {tables[name].parent} and {folder}; remove one")
            tables[name] = Path(folder) / name
    if LABELLED not in tables:
        raise UserError(f"{root}: {LABELLED} (attachment 1) not found at any depth; unpack it there")
    _check_image_folders(root, [tables[name] for name in IMAGE_TABLES if name in tables])
    return tables


def _check_image_folders(root: Path, tables: list[Path]) -> None:
    owners: dict[Path, Path] = {}
    for table in tables:
        folder = table.parent / IMAGE_DATA
        if folder.is_symlink() or not folder.is_dir():
            raise UserError(f"{folder}: not found, or a link; the pictures of {table.name} must lie in it")
        if folder in owners:
            raise UserError(
                f"{root}: {owners[folder].name} and {table.name} lie in one folder and would share its "
                f"{IMAGE_DATA}; keep each attachment in a folder of its own"
            )
        owners[folder] = table


def _labelled(
    root: Path, table: Path, encoding: str | None, readings: list[Reading], extent: Extent
) -> Iterator[Record]:
    """Yield the records: captions of one image are numbered; images without a row come last and have no pair.

    Rows that name one file in two ways are rows of one image, whose id is the first of them.
    """
    file, folder = make_relative(table, root), table.parent / IMAGE_DATA
    files, captions = ImageFiles(folder), Counter[str]()
    ids: dict[str, str] = {}  # file -> the id that named it first
    extent.begin("rows", 0)
    rows = read_csv_rows(table, ("image_id", "caption"), encoding=encoding, readings=readings)
    for row, cells in follow_rows(rows, extent, readings):
        image_id = cells["image_id"]
        found = files.find(image_id)
        yield from make_notes(found, image_id)
        image_id = ids.setdefault(found.name, image_id) if found.path else image_id
        if image_id not in captions:
            yield from _image(root, table, files, image_id, row)
        captions[image_id] += 1
        text_id = f"{image_id}#{captions[image_id]}"
        yield TextRecord(text_id, cells["caption"], file, row)
        yield PairRecord(text_id, image_id, text_id, file, row)
    for path in _unnamed(folder, ids):
        if not is_image_name(path):
            yield NoteRecord(f"files in {IMAGE_DATA} that are no pictures", path)
            continue
        data, found = read_image_file(files, path)
        yield ImageRecord(path, data, make_relative(folder / path, root), fault=found.fault)


def _task(
    root: Path, texts: Path, images: Path, encoding: str | None, readings: list[Reading], extent: Extent
) -> Iterator[Record]:
    extent.begin("bytes", measure_sizes([texts, images]))
    rows = read_csv_rows(texts, ("text_id", "caption"), encoding=encoding, readings=readings)
    for row, cells in follow_bytes(rows, texts, extent, readings):
        yield TextRecord(cells["text_id"], cells["caption"], make_relative(texts, root), row)
    folder = images.parent / IMAGE_DATA
    files, named = ImageFiles(folder), set[str]()
    rows = read_csv_rows(images, ("image_id",), encoding=encoding, readings=readings)
    for row, cells in follow_bytes(rows, images, extent, readings):
        found = files.find(cells["image_id"])
        yield from make_notes(found, cells["image_id"])
        named.add(found.name)
        yield from _image(root, images, files, cells["image_id"], row)
    if more := len([path for path in _unnamed(folder, named) if is_image_name(path)]):
        print(f"{images}: {more} files in {IMAGE_DATA} are not named here and left alone", file=sys.stderr)


def _image(root: Path, table: Path, files: ImageFiles, image_id: str, row: int) -> Iterator[Record]:
    data, found = read_image_file(files, image_id)
    if data is None:
        yield ImageRecord(image_id, None, make_relative(table, root), row, found.fault)
    else:
        yield ImageRecord(image_id, data, make_relative(table.parent / IMAGE_DATA / found.name, root))


def _unnamed(folder: Path, named: Collection[str]) -> list[str]:
    """Return the files under `folder`, as sorted paths from it, that are not among `named`."""
    paths = (make_relative(Path(place) / file, folder) for place, _, files in os.walk(folder) for file in files)
    return sorted(path for path in paths if path not in named)
