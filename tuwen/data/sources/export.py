"""Sets of the pipeline in the forms of other programs: what the sources chinese_clip and webdataset read back."""

import base64
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.errors import UserError
from tuwen.core.progress import follow
from tuwen.data.formats import pairs, shards
from tuwen.data.formats.image_files import find_extension
from tuwen.data.sources import webdataset

EXPORT_FORMS = ("chinese_clip", "webdataset")
KEPT_NAMES = ("train", "valid", "test", "t2i", "i2t")  # any other set is written as train


def export_sets(form: str, sets: Sequence[Path], out: Path, shard_bytes: int = 512 << 20) -> None:
    """Write the sets, folders such as data/clean/train, into the new folder `out`; counts go to stderr.

    The tables are held in memory, the images are not. Equal sets give equal bytes. Left out and counted: images
    without bytes, pairs with label 0, and for WebDataset texts without an image. Raises UserError for an unknown
    form, an `out` that holds something, two sets of one name, and i2t as chinese_clip.
    """
    if form not in EXPORT_FORMS:
        raise UserError(f"no such format {form!r}; expected {' or '.join(EXPORT_FORMS)}")
    if out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None):
        raise UserError(f"{out}: exists and is not an empty folder; name another, or remove it")
    opened = [_open(folder) for folder in sets]
    names = [_name(form, folder, one) for folder, one in zip(sets, opened, strict=True)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{out}: several sets would be written as {twice}; write each into a folder of its own")
    out.mkdir(parents=True, exist_ok=True)
    if form == "chinese_clip":
        _chinese_clip(dict(zip(names, opened, strict=True)), out)
    else:
        _webdataset(dict(zip(names, opened, strict=True)), out, shard_bytes)
    for folder, one in zip(sets, opened, strict=True):
        left_out = ", ".join(f"{number} {what}" for what, number in one.left_out.items() if number) or "nothing"
        print(f"{folder}: {len(one.image_rows)} pairs written, left out: {left_out}", file=sys.stderr)


def _name(form: str, folder: Path, one: "_Set") -> str:
    """Return the name that the set gets; a set without pairs is the task to the reader of chinese_clip."""
    name = folder.name if folder.name in KEPT_NAMES else "train"
    if form == "chinese_clip" and name == "i2t":
        raise UserError(f"{folder}: chinese_clip has no form for a task whose queries are images; leave it out")
    return "test" if form == "chinese_clip" and name == "t2i" and len(one.image_rows) else name


class _Set(NamedTuple):
    """A set to write, with the rows of the pairs that can be written."""

    data: Path  # what the shards' paths start from
    images: pa.Table
    texts: pa.Table
    image_rows: pairs.RowNumbers  # [P], one for each pair that can be written
    text_rows: pairs.RowNumbers  # [P]
    left_out: Counter[str]

    def read_images(self) -> Iterator[tuple[str, bytes | None]]:
        """Yield (image_id, bytes) of every row; None where there are no bytes."""
        for batch in self.images.select(["image_id", *shards.Place._fields]).to_batches(1 << 14):
            for row in batch.to_pylist():
                whole = row["shard"] is not None
                yield row["image_id"], shards.read_member(self.data, shards.Place.of(row)) if whole else None


def _open(folder: Path) -> _Set:
    data = next((place.parent for place in folder.resolve().parents if place.name in ("raw", "clean")), None)
    if data is None:
        raise UserError(f"{folder}: no set of the pipeline; expected one such as data/clean/train")
    tables = pairs.read_pair_set(folder)
    blank = tables.images["shard"].is_null()
    true = pairs.select_true_pairs(tables)
    image_rows = pc.index_in(true["image_id"], value_set=tables.images["image_id"].combine_chunks())
    text_rows = pc.index_in(true["text_id"], value_set=tables.texts["text_id"].combine_chunks())
    whole = pc.and_(image_rows.is_valid(), text_rows.is_valid())
    whole = pc.and_(whole, pc.invert(pc.fill_null(pc.take(blank, image_rows), True)))
    image_rows, text_rows = (rows.filter(whole).to_numpy().astype(np.int64) for rows in (image_rows, text_rows))
    left_out = Counter({"pictures without bytes": tables.images["shard"].null_count})
    left_out["pairs with label 0"] = tables.pairs.num_rows - true.num_rows
    left_out["pairs without picture or text"] = true.num_rows - len(image_rows)
    left_out["shards that stay where they are"] = pairs.read_shards(folder).num_rows
    return _Set(data, tables.images, tables.texts, image_rows, text_rows, left_out)


def _chinese_clip(sets: dict[str, _Set], out: Path) -> None:
    """Write tsv and jsonl. Ids become numbers, which Chinese-CLIP needs; ids.csv lists them with the ids."""
    with open(out / "ids.csv", "w", encoding="utf-8", newline="") as file:
        ids = csv.writer(file, lineterminator="\n")
        ids.writerow(("split", "item", "number", "id"))
        image_numbers, text_numbers = count(1), count(1)
        for name, one in sets.items():
            numbers: dict[int, int] = {}  # row -> number of an image that was written
            with open(out / f"{name}_imgs.tsv", "wb") as images:
                rows = follow(one.read_images(), f"export {name}", one.images.num_rows)
                for row, (image_id, data) in enumerate(rows):
                    if data is not None:
                        numbers[row] = next(image_numbers)
                        ids.writerow((name, "image", numbers[row], image_id))
                        images.write(b"%d\t%s\n" % (numbers[row], base64.b64encode(data)))
            columns = (one.texts[column].to_pylist() for column in ("text_id", "caption"))
            groups = _group(one.image_rows, one.text_rows, one.texts.num_rows)
            with open(out / f"{name}_texts.jsonl", "w", encoding="utf-8") as texts:
                for (text_id, caption), image_rows in zip(zip(*columns, strict=True), groups, strict=True):
                    number = next(text_numbers)
                    ids.writerow((name, "text", number, text_id))
                    line = {"text_id": number, "text": caption, "image_ids": [numbers[row] for row in image_rows]}
                    texts.write(json.dumps(line, ensure_ascii=False) + "\n")


def _webdataset(sets: dict[str, _Set], out: Path, shard_bytes: int) -> None:
    """Write a folder of tars for each set, and the list of all of them, shards.csv."""
    for name, one in sets.items():
        captions = one.texts["caption"].to_pylist()
        groups = _group(one.text_rows, one.image_rows, one.images.num_rows)
        rows = follow(one.read_images(), f"export {name}", one.images.num_rows)
        one.left_out["texts without a picture"] = one.texts.num_rows - len(np.unique(one.text_rows))
        with shards.ShardWriter(out, name, shard_bytes) as writer:
            for row, ((image_id, data), texts) in enumerate(zip(rows, groups, strict=True)):
                for extension, content in _members(image_id, data, [captions[text] for text in texts]):
                    writer.add(f"{row:09d}.{extension}", content)
    with open(out / "shards.csv", "w", encoding="utf-8", newline="") as file:
        tars = sorted(out.rglob("*.tar"))
        webdataset.write_shard_list(file, tars, map(webdataset.measure_shard, tars))


def _members(image_id: str, data: bytes | None, captions: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (extension, bytes): the image, its captions as json, and the first as txt, as many programs want."""
    if data is None:
        return
    yield find_extension(data) or "jpg", data
    if captions:
        body: dict[str, Any] = {"image_id": image_id, "caption": captions}
        yield "json", json.dumps(body, ensure_ascii=False).encode()
        # a caption that begins with a byte order mark needs one before it: readers drop the first
        yield "txt", captions[0].encode("utf-8-sig" if captions[0].startswith("\ufeff") else "utf-8")


def _group(values: pairs.RowNumbers, keys: pairs.RowNumbers, size: int) -> Iterator[list[int]]:
    """Yield for each key 0 … size-1 the values beside it, in their order."""
    order = np.argsort(keys, kind="stable")
    bounds = np.searchsorted(keys[order], np.arange(size + 1))
    for start, stop in pairwise(bounds):
        yield values[order[start:stop]].tolist()
