"""Chinese-CLIP's form: images in base64, one a line, and texts with the ids of their images.

{split}_imgs.tsv     image_id <tab> base64, plain, URL-safe or behind data:image/jpeg;base64,
{split}_texts.jsonl  {"text_id": 8428, "text": "高级感托特包斜挎", "image_ids": [1076345, 517602]}
MUGE, Flickr30k-CN and COCO-CN come in it: README.md of https://github.com/OFA-Sys/Chinese-CLIP.
"""

import codecs
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError
from tuwen.core.params import ChineseClipSource
from tuwen.core.progress import Extent
from tuwen.data.formats.file_names import compose_name
from tuwen.data.formats.foreign_text.encoding import decode_text
from tuwen.data.formats.image_files import decode_base64, is_hidden
from tuwen.data.formats.text_files import Reading, read_json_rows
from tuwen.data.sources.files import follow_bytes, measure_sizes
from tuwen.data.sources.records import (
    SPLIT_NAMES,
    ImageRecord,
    PairRecord,
    Record,
    SourceSets,
    TextRecord,
    map_official_splits,
)

IMAGE_SUFFIX, TEXT_SUFFIX = "_imgs.tsv", "_texts.jsonl"
TEXT_FIELDS = ("text_id", "text", "image_ids")
MAX_LINE_BYTES = 1 << 28  # above any image: a file without line ends must not fill the memory


def read(source: ChineseClipSource, readings: list[Reading], extent: Extent) -> SourceSets:
    """Return the pairs of every split, and as task t2i the split whose texts name no image at all.

    Ids of labelled pairs begin with their split, since some data sets number each split from the start; ids of the
    task are as in the files. Raises UserError where a file is missing, misnamed, or has a line of another form.
    """
    root = Path(source.root)
    names = _names(root)
    tasks = [name for name in names if _is_task(root / f"{name}{TEXT_SUFFIX}", source.encoding)]
    if len(tasks) > 1:
        raise UserError(f"{root}: the texts of {tasks} name no pictures; there can be one task, move the others")
    splits = _splits(root, [name for name in names if name not in tasks])
    sets: dict[str, Iterator[Record]] = {"labelled": _labelled(source, splits, readings, extent)}
    if tasks:
        sets["t2i"] = _task(source, tasks[0], readings, extent)
    return sets


def _labelled(
    source: ChineseClipSource, splits: dict[str, str | None], readings: list[Reading], extent: Extent
) -> Iterator[Record]:
    extent.begin("bytes", measure_sizes(chain.from_iterable(_locate(source, name) for name in splits)))
    for name, split in splits.items():
        yield from _records(source, name, f"{SPLIT_NAMES[name]}/", split, readings, extent)


def _task(source: ChineseClipSource, name: str, readings: list[Reading], extent: Extent) -> Iterator[Record]:
    extent.begin("bytes", measure_sizes(_locate(source, name)))
    yield from _records(source, name, "", None, readings, extent)


def _locate(source: ChineseClipSource, name: str) -> tuple[Path, Path]:
    return Path(source.root) / f"{name}{IMAGE_SUFFIX}", Path(source.root) / f"{name}{TEXT_SUFFIX}"


def _names(root: Path) -> list[str]:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; `root` in params.yaml names the one with train{IMAGE_SUFFIX}")
    suffixes = (IMAGE_SUFFIX, TEXT_SUFFIX)
    paths = {end: [path.name for path in root.glob(f"*{end}") if not is_hidden(path.name)] for end in suffixes}
    names = {end: {name.removesuffix(end) for name in paths[end]} for end in suffixes}
    if not names[IMAGE_SUFFIX]:
        raise UserError(
            f"{root}: no file named like train{IMAGE_SUFFIX}; `root` must name the folder that has them"
        )
    for name in sorted(names[IMAGE_SUFFIX] ^ names[TEXT_SUFFIX]):
        missing = f"{name}{TEXT_SUFFIX if name in names[IMAGE_SUFFIX] else IMAGE_SUFFIX}"
        raise UserError(f"{root}: {missing} not found, half of the split {name}; add it, or take out the other")
    return sorted(names[IMAGE_SUFFIX])


def _splits(root: Path, names: list[str]) -> dict[str, str | None]:
    """Return name in the files -> the split of its images, None where there is only one."""
    for name in names:
        if name not in SPLIT_NAMES:
            raise UserError(
                f"{root}: {name}{TEXT_SUFFIX}: unknown split {name!r}, expected {', '.join(SPLIT_NAMES)}; rename"
            )
    split_of = {name: SPLIT_NAMES[name] for name in names}
    if len(set(split_of.values())) < len(names):
        raise UserError(f"{root}: {names} name one split twice; keep one of them")
    if not names:
        raise UserError(f"{root}: no text names a picture in image_ids; there are no pairs to train on")
    return {name: map_official_splits(split_of.values())[split] for name, split in split_of.items()}


def _is_task(texts: Path, encoding: str | None) -> bool:
    """Whether there are texts and none names an image."""
    row = 0
    for row, values in read_json_rows(texts, TEXT_FIELDS, encoding):
        if _image_ids(values, f"{texts}:{row}"):
            return False
    return row > 0


def _records(
    source: ChineseClipSource, name: str, prefix: str, split: str | None, readings: list[Reading], extent: Extent
) -> Iterator[Record]:
    images, texts = _locate(source, name)
    for row, image_id, encoded in _lines(images, source.encoding, extent):
        data = decode_base64(encoded)
        fault = None if data else "unreadable_record"
        yield ImageRecord(f"{prefix}{image_id}", data or None, images.name, row, fault, split=split)
    rows = read_json_rows(texts, TEXT_FIELDS, source.encoding, readings)
    for row, values in follow_bytes(rows, texts, extent, readings):
        place = f"{texts}:{row}"
        text_id = f"{prefix}{_id(values['text_id'], place)}"
        text = values["text"] if values["text"] is not None else ""
        if not isinstance(text, str):
            raise UserError(f"{place}: text is {text!r:.80}, expected a text; write it in quotes")
        yield TextRecord(text_id, text, texts.name, row)
        for image_id in dict.fromkeys(_image_ids(values, place)):
            yield PairRecord(f"{text_id}:{image_id}", f"{prefix}{image_id}", text_id, texts.name, row)


def _lines(path: Path, encoding: str | None, extent: Extent) -> Iterator[tuple[int, str, bytes]]:
    """Yield (line counted from 1, image id, base64); empty lines are skipped. extent: counts the bytes."""
    with open(path, "rb") as file:
        for row, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), b""), 1):
            extent.done += len(line)
            if len(line) == MAX_LINE_BYTES:
                raise UserError(f"{path}:{row}: {MAX_LINE_BYTES} bytes and no line end; write one picture a line")
            line = line.removeprefix(codecs.BOM_UTF8 if row == 1 else b"").rstrip(b"\r\n")
            if not line:
                continue
            fields = line.split(b"\t")
            if len(fields) != 2 or not fields[0].strip():
                raise UserError(
                    f"{path}:{row}: found {len(fields)} fields, {line[:40]!r}, expected image id, tab, base64"
                )
            yield row, _decoded_id(fields[0], encoding, f"{path}:{row}"), fields[1]


def _decoded_id(raw: bytes, encoding: str | None, place: str) -> str:
    try:
        return _compose(decode_text(raw, encoding))
    except ValueError as error:
        raise UserError(
            f"{place}: the image id {raw[:40]!r} cannot be decoded ({error}); write it anew, or "
            "name its `encoding:`"
        ) from None


def _image_ids(values: dict[str, Any], place: str) -> list[str]:
    ids = values["image_ids"] if values["image_ids"] is not None else []
    if not isinstance(ids, list):
        raise UserError(f"{place}: image_ids is {ids!r:.80}, expected a list; write [] where there is none")
    return [_id(value, place) for value in ids]


def _id(value: Any, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise UserError(f"{place}: the id is {value!r:.80}, expected a number or a text; give each its own")
    return _compose(str(value))


def _compose(image_id: str) -> str:
    """Return an id in one form: ids that are file names may stand as NFD in one file and as NFC in the other."""
    return compose_name(image_id.strip())
