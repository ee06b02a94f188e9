"""The form of R2D2 and its Chinese benchmark Zero: lists of image and caption, one pair a line.

ICR, IQR  {split}/{long,short}_itr_{split}.json  {"text": …, "image_path": …}
ICM, IQM  {split}/{long,short}_itm_{split}.json  the same with "label": 1 the caption fits, 0 it does not
Flickr30k-CNA  {split}/flickr30k_cna_{split}.txt  number or number#n <tab> caption; its image is number.jpg
As data/*_dataset.py, data/matching_datasets.py and README.md of https://github.com/yuxie11/R2D2 read them.
Images lie in folders named like IQR_IQM_ICR_ICM_images, under the last part of `image_path`.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tuwen.core.errors import UserError
from tuwen.core.params import ZeroSource
from tuwen.core.progress import Extent
from tuwen.data.formats.image_files import AMBIGUOUS, FoundFile, ImageFiles, is_hidden, is_image_name
from tuwen.data.formats.text_files import Reading, open_text, read_json_rows
from tuwen.data.sources.files import follow_bytes, make_notes, make_relative, measure_sizes, read_image_file
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
IMAGE_FOLDER = re.compile(r".*images?", re.IGNORECASE)
STRICTNESS = ("test", "valid", "train", None)  # an image of several lists gets the first of these


class _List(NamedTuple):
    path: Path
    split: str | None


class _Row(NamedTuple):
    row: int
    image: str  # as the list names it
    caption: str
    label: int = 1


def read(source: ZeroSource, readings: list[Reading], extent: Extent) -> SourceSets:
    """Return the pairs of all lists under `root`; a pair of a matching list has its label.

    An image's id is its path from `root`. Raises UserError where there is no list, or a line is not of its form.
    """
    root = Path(source.root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; `root` in params.yaml names the one with lists and pictures")
    lists, folders = _find_lists(root)
    if not lists:
        raise UserError(f"{root}: no list named like long_itr_train.json or flickr30k_cna_train.txt")
    return {"labelled": _records(source, lists, folders, readings, extent)}


def _find_lists(root: Path) -> tuple[list[_List], list[str]]:
    """Return the lists, strictest split first, and the folders of images, which are not searched for lists."""
    sets: dict[Path, dict[Path, str]] = {}  # a data set's folder -> its lists and their splits
    image_folders: list[Path] = []
    for place, folders, files in os.walk(root):
        folder = Path(place)
        folders[:] = [name for name in folders if not is_hidden(name)]
        image_folders += [folder / name for name in folders if IMAGE_FOLDER.fullmatch(name)]
        folders[:] = [name for name in folders if not IMAGE_FOLDER.fullmatch(name)]
        for match in filter(None, (LIST.fullmatch(name) for name in files if not is_hidden(name))):
            home = folder.parent if folder.name in SPLIT_NAMES and folder != root else folder
            sets.setdefault(home, {})[folder / match[0]] = SPLIT_NAMES[match[1]]
    lists = [
        _List(path, map_official_splits(splits.values())[split])
        for splits in sets.values()
        for path, split in splits.items()
    ]
    for link in filter(Path.is_symlink, image_folders):
        raise UserError(f"{link}: a link, behind which DVC sees no change; move the pictures here")
    lists.sort(key=lambda one: (STRICTNESS.index(one.split), one.path))
    return lists, sorted(make_relative(folder, root) for folder in image_folders)


def _records(
    source: ZeroSource, lists: list[_List], folders: list[str], readings: list[Reading], extent: Extent
) -> Iterator[Record]:
    root = Path(source.root)
    ids: dict[str, str] = {}  # name of an image in the lists -> its id
    otherwise: dict[str, FoundFile] = {}  # names that are not the file's own
    yielded, files = set[str](), ImageFiles(root)
    extent.begin("bytes", measure_sizes(path for path, _ in lists))
    for path, split in lists:
        file = make_relative(path, root)
        read_rows = _text_rows if path.suffix == ".txt" else _json_rows
        for line in follow_bytes(read_rows(path, source.encoding, readings), path, extent, readings):
            if line.image not in ids:
                data, found = _image(files, folders, line.image)
                image_id = ids[line.image] = found.name
                otherwise |= {line.image: found} if found.way else {}
                if image_id not in yielded:
                    yielded.add(image_id)
                    where, row = (image_id, None) if data is not None else (file, line.row)
                    yield ImageRecord(image_id, data, where, row, found.fault, split=split)
            if line.image in otherwise:
                yield from make_notes(otherwise[line.image], line.image)
            text_id = f"{file}:{line.row}"
            yield TextRecord(text_id, line.caption, file, line.row)
            yield PairRecord(text_id, ids[line.image], text_id, file, line.row, line.label)


def _image(files: ImageFiles, folders: list[str], name: str) -> tuple[bytes | None, FoundFile]:
    """Return bytes and place of the file `name` under the root, else of its last part in a folder of images.

    Where several folders have such a file, and not the same, none is taken.
    """
    data, found = read_image_file(files, name)
    if data is not None:
        return data, found
    last = name.replace("\\", "/").rpartition("/")[2]
    fitting = [
        one for one in (read_image_file(files, f"{folder}/{last}") for folder in folders) if one[0] is not None
    ]
    if len({data for data, _ in fitting}) > 1:
        return None, FoundFile(None, name, AMBIGUOUS, "missing")
    return fitting[0] if fitting else (None, found._replace(name=name.replace("\\", "/")))


def _json_rows(path: Path, encoding: str | None, readings: list[Reading]) -> Iterator[_Row]:
    for row, values in read_json_rows(path, ("text", "image_path"), encoding, readings):
        label: Any = values.get("label", 1)
        if isinstance(label, bool) or label not in (0, 1):
            raise UserError(f"{path}:{row}: the label is {label!r:.80}, expected 1 where the caption fits, else 0")
        text = values["text"] if values["text"] is not None else ""
        for key, value in (("text", text), ("image_path", values["image_path"])):
            if not isinstance(value, str):
                raise UserError(f"{path}:{row}: {key} is {value!r:.80}, expected a text; write it in quotes")
        yield _Row(row, values["image_path"], text, int(label))


def _text_rows(path: Path, encoding: str | None, readings: list[Reading]) -> Iterator[_Row]:
    with open_text(path, newline="\n", encoding=encoding, readings=readings) as file:
        for row, line in enumerate(file, 1):
            if not line.strip():
                continue
            name, tab, caption = line.rstrip("\r\n").partition("\t")
            number = name.partition("#")[0].strip()
            if not (tab and number):
                raise UserError(f"{path}:{row}: found {line.strip()[:40]!r}, expected number#n, tab, caption")
            yield _Row(row, number if is_image_name(number) else f"{number}.jpg", caption)
