"""The form of R2D2 and its Chinese benchmark Zero: lists of picture and caption, one pair a line.

ICR, IQR  {split}/{long,short}_itr_{split}.json  {"text": …, "image_path": …}
ICM, IQM  {split}/{long,short}_itm_{split}.json  the same with "label": 1 the caption fits, 0 it does not
Flickr30k-CNA  {split}/flickr30k_cna_{split}.txt  number or number#n <tab> caption; its picture is number.jpg
As data/*_dataset.py, data/matching_datasets.py and README.md of https://github.com/yuxie11/R2D2 read them.
Pictures lie in folders named like IQR_IQM_ICR_ICM_images, where the last part of `image_path` finds them.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tuwen.core.errors import UserError
from tuwen.core.params import ZeroSource
from tuwen.data.formats.text_files import open_text, read_json_rows
from tuwen.data.sources.files import make_relative, read_image_file
from tuwen.data.sources.records import (
    SPLIT_NAMES,
    ImageRecord,
    PairRecord,
    Record,
    SourceSets,
    TextRecord,
    map_official_splits,
)

LIST = re.compile(rf".+_({'|'.join(SPLIT_NAMES)})\.(json|txt)")
PICTURE_FOLDER = re.compile(r".*images?", re.IGNORECASE)
STRICTNESS = ("test", "valid", "train", None)  # a picture of several lists gets the first of these


class _List(NamedTuple):
    path: Path
    split: str | None


class _Row(NamedTuple):
    row: int
    picture: str  # as the list names it
    caption: str
    label: int = 1


def read(source: ZeroSource) -> SourceSets:
    """The pairs of all lists under `root`; a pair of a matching list carries its label.

    A picture's id is its path from `root`. Raises UserError where there is no list, or a line is not of its form.
    """
    root = Path(source.root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; `root` in params.yaml names the one with lists and pictures")
    lists, folders = _find(root)
    if not lists:
        raise UserError(f"{root}: no list named like long_itr_train.json or flickr30k_cna_train.txt")
    return {"labelled": _records(root, lists, folders)}


def _find(root: Path) -> tuple[list[_List], list[str]]:
    """The lists, strictest split first, and the folders of pictures, which are not searched for lists."""
    sets: dict[Path, dict[Path, str]] = {}  # a data set's folder -> its lists and their splits
    pictures: list[Path] = []
    for place, folders, files in os.walk(root):
        folder = Path(place)
        pictures += [folder / name for name in folders if PICTURE_FOLDER.fullmatch(name)]
        folders[:] = [name for name in folders if not PICTURE_FOLDER.fullmatch(name)]
        for match in filter(None, map(LIST.fullmatch, files)):
            home = folder.parent if folder.name in SPLIT_NAMES and folder != root else folder
            sets.setdefault(home, {})[folder / match[0]] = SPLIT_NAMES[match[1]]
    lists = [
        _List(path, map_official_splits(splits.values())[split])
        for splits in sets.values()
        for path, split in splits.items()
    ]
    for link in filter(Path.is_symlink, pictures):
        raise UserError(f"{link}: a link, behind which DVC sees no change; move the pictures here")
    lists.sort(key=lambda found: (STRICTNESS.index(found.split), found.path))
    return lists, sorted(make_relative(folder, root) for folder in pictures)


def _records(root: Path, lists: list[_List], folders: list[str]) -> Iterator[Record]:
    ids: dict[str, str] = {}  # what the lists call a picture -> its id
    shown: set[str] = set()
    for path, split in lists:
        file = make_relative(path, root)
        for line in _text_rows(path) if path.suffix == ".txt" else _json_rows(path):
            if line.picture not in ids:
                image_id, data, fault = _picture(root, folders, line.picture)
                ids[line.picture] = image_id
                if image_id not in shown:
                    shown.add(image_id)
                    where, row = (image_id, None) if data is not None else (file, line.row)
                    yield ImageRecord(image_id, data, where, row, fault, split=split)
            text_id = f"{file}:{line.row}"
            yield TextRecord(text_id, line.caption, file, line.row)
            yield PairRecord(text_id, ids[line.picture], text_id, file, line.row, line.label)


def _picture(root: Path, folders: list[str], name: str) -> tuple[str, bytes | None, str | None]:
    """(id, bytes, fault) of the file that `name` names from `root`, else by its last part in a picture folder."""
    data, fault = read_image_file(root, name)
    name = name.replace("\\", "/")
    if data is not None:
        return name, data, None
    for folder in folders:
        place = f"{folder}/{name.rpartition('/')[2]}"
        data, _ = read_image_file(root, place)
        if data is not None:
            return place, data, None
    return name, None, fault


def _json_rows(path: Path) -> Iterator[_Row]:
    for row, values in read_json_rows(path, ("text", "image_path")):
        label: Any = values.get("label", 1)
        if isinstance(label, bool) or label not in (0, 1):
            raise UserError(f"{path}:{row}: the label is {label!r:.80}, expected 1 where the caption fits, else 0")
        text = values["text"] if values["text"] is not None else ""
        for key, value in (("text", text), ("image_path", values["image_path"])):
            if not isinstance(value, str):
                raise UserError(f"{path}:{row}: {key} is {value!r:.80}, expected a text; write it in quotes")
        yield _Row(row, values["image_path"], text, int(label))


def _text_rows(path: Path) -> Iterator[_Row]:
    with open_text(path, newline="\n") as file:
        for row, line in enumerate(file, 1):
            if not line.strip():
                continue
            name, tab, caption = line.rstrip("\r\n").partition("\t")
            number = name.partition("#")[0].strip()
            if not (tab and number):
                raise UserError(f"{path}:{row}: found {line.strip()[:40]!r}, expected number#n, tab, caption")
            yield _Row(row, number if number.lower().endswith(".jpg") else f"{number}.jpg", caption)
