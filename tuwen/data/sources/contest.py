"""The contest's attachments: labelled pairs and both tasks, found by the names of their files.

ImageWordData.csv  image_id,caption   labelled pairs
word_test.csv      text_id,caption    t2i: the texts that ask ...
image_data.csv     image_id           ... and the gallery
image_test.csv     image_id           i2t: the pictures that ask ...
word_data.csv      text_id,caption    ... and the gallery
Pictures lie in the folder `ImageData` beside the table that names them.
"""

import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from tuwen.core.errors import UserError
from tuwen.core.params import ContestSource
from tuwen.data.formats.text_files import read_csv_rows
from tuwen.data.sources.files import make_relative, read_image_file
from tuwen.data.sources.records import ImageRecord, PairRecord, Record, SourceSets, TextRecord

LABELLED = "ImageWordData.csv"
TASKS = {"t2i": ("word_test.csv", "image_data.csv"), "i2t": ("word_data.csv", "image_test.csv")}  # texts, pictures
PICTURED = (LABELLED, *(pictures for _, pictures in TASKS.values()))
FOLDER = "ImageData"


def read(source: ContestSource) -> SourceSets:
    """The labelled pairs, and each task whose two files are there; pictures in the order of their table.

    Raises UserError where a file is missing, is found twice, or has another header.
    """
    root = Path(source.root)
    found = _find(root)
    sets: dict[str, Iterator[Record]] = {"labelled": _labelled(root, found[LABELLED])}
    for name, (texts, pictures) in TASKS.items():
        missing = [file for file in (texts, pictures) if file not in found]
        if len(missing) == 1:
            raise UserError(
                f"{root}: {missing[0]} not found, half of the task {name}; add it, or take out the other"
            )
        if not missing:
            sets[name] = _task(root, found[texts], found[pictures])
    return sets


def _find(root: Path) -> dict[str, Path]:
    """File name -> where it lies under `root`. Folders that are links are not followed: DVC does not see them."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; `root` in params.yaml must name the contest's attachments")
    names = {LABELLED, *(name for files in TASKS.values() for name in files)}
    found: dict[str, Path] = {}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name != FOLDER)
        for name in names.intersection(files):
            if name in found:
                raise UserError(f"{root}: {name} found twice, in {found[name].parent} and {folder}; remove one")
            found[name] = Path(folder) / name
    if LABELLED not in found:
        raise UserError(f"{root}: {LABELLED} (attachment 1) not found at any depth; unpack it there")
    _check_picture_folders(root, [found[name] for name in PICTURED if name in found])
    return found


def _check_picture_folders(root: Path, tables: list[Path]) -> None:
    owners: dict[Path, Path] = {}
    for table in tables:
        folder = table.parent / FOLDER
        if folder.is_symlink() or not folder.is_dir():
            raise UserError(f"{folder}: not found, or a link; the pictures of {table.name} must lie in it")
        if folder in owners:
            raise UserError(
                f"{root}: {owners[folder].name} and {table.name} lie in one folder and would share its {FOLDER}; "
                "keep each attachment in a folder of its own"
            )
        owners[folder] = table


def _labelled(root: Path, table: Path) -> Iterator[Record]:
    """Captions of one picture are numbered; pictures that no row names come last and have no pair."""
    file = make_relative(table, root)
    captions: Counter[str] = Counter()
    for row, cells in read_csv_rows(table, ("image_id", "caption")):
        image_id = cells["image_id"]
        if image_id not in captions:
            yield _picture(root, table, image_id, row)
        captions[image_id] += 1
        text_id = f"{image_id}#{captions[image_id]}"
        yield TextRecord(text_id, cells["caption"], file, row)
        yield PairRecord(text_id, image_id, text_id, file, row)
    folder = table.parent / FOLDER
    for path in _unnamed(folder, captions):
        data, fault = read_image_file(folder, path.relative_to(folder).as_posix())
        yield ImageRecord(make_relative(path, folder), data, make_relative(path, root), fault=fault)


def _task(root: Path, texts: Path, pictures: Path) -> Iterator[Record]:
    for row, cells in read_csv_rows(texts, ("text_id", "caption")):
        yield TextRecord(cells["text_id"], cells["caption"], make_relative(texts, root), row)
    named = set[str]()
    for row, cells in read_csv_rows(pictures, ("image_id",)):
        named.add(cells["image_id"])
        yield _picture(root, pictures, cells["image_id"], row)
    if more := len(_unnamed(pictures.parent / FOLDER, named)):
        print(f"{pictures}: {more} files in {FOLDER} are not named here and left alone", file=sys.stderr)


def _picture(root: Path, table: Path, image_id: str, row: int) -> ImageRecord:
    folder = table.parent / FOLDER
    data, fault = read_image_file(folder, image_id)
    if fault:
        return ImageRecord(image_id, None, make_relative(table, root), row, fault)
    return ImageRecord(image_id, data, make_relative(folder / image_id.replace("\\", "/"), root))


def _unnamed(folder: Path, named: Collection[str]) -> list[Path]:
    """The files under `folder` that no id names, in the order of their paths."""
    known = {name.replace("\\", "/") for name in named}
    there = (Path(place) / file for place, _, files in os.walk(folder) for file in files)
    return sorted(path for path in there if path.relative_to(folder).as_posix() not in known)
