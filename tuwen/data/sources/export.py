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
from tuwen.data.sources import webdataset

EXPORT_FORMS = ("chinese_clip", "webdataset")
KEPT_NAMES = ("train", "valid", "test", "t2i", "i2t")  # any other set is written as train
KINDS = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"RIFF", "webp"), (b"BM", "bmp"))


def export_sets(form: str, sets: Sequence[Path], out: Path, shard_bytes: int = 512 << 20) -> None:
    """Write the sets, folders such as data/clean/train, into the new folder `out`; counts go to stderr.

    The tables are held in memory, the pictures are not. Equal sets give equal bytes. Left out and counted:
    pictures without bytes, pairs with label 0, and for WebDataset texts without a picture. Raises UserError for an
    unknown format, an `out` that holds something, two sets of one name, and i2t as chinese_clip.
    """
    if form not in EXPORT_FORMS:
        raise UserError(f"no such format {form!r}; expected {' or '.join(EXPORT_FORMS)}")
    if out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None):
        raise UserError(f"{out}: exists and is not an empty folder; name another, or remove it")
    opened = [_open(folder) for folder in sets]
    names = [_name(form, folder, found) for folder, found in zip(sets, opened, strict=True)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{out}: several sets would be written as {twice}; write each into a folder of its own")
    out.mkdir(parents=True, exist_ok=True)
    if form == "chinese_clip":
        _chinese_clip(dict(zip(names, opened, strict=True)), out)
    else:
        _webdataset(dict(zip(names, opened, strict=True)), out, shard_bytes)
    for folder, found in zip(sets, opened, strict=True):
        said = ", ".join(f"{number} {what}" for what, number in found.left_out.items() if number) or "nothing"
        print(f"{folder}: {len(found.image_rows)} pairs written, left out: {said}", file=sys.stderr)


def _name(form: str, folder: Path, found: "_Set") -> str:
    """What the set is written as; the reader of chinese_clip takes for the task what has no pairs at all."""
    name = folder.name if folder.name in KEPT_NAMES else "train"
    if form == "chinese_clip" and name == "i2t":
        raise UserError(f"{folder}: pictures that ask have no place in chinese_clip; leave it out")
    return "test" if form == "chinese_clip" and name == "t2i" and len(found.image_rows) else name


class _Set(NamedTuple):
    data: Path  # what the shards' paths start from
    images: pa.Table
    texts: pa.Table
    image_rows: pairs.RowNumbers  # of the pairs that can be written ...
    text_rows: pairs.RowNumbers
    left_out: Counter[str]

    def pictures(self) -> Iterator[tuple[str, bytes | None]]:
        """(image_id, bytes) of every row; None where there are no bytes."""
        for batch in self.images.select(["image_id", *shards.Place._fields]).to_batches(1 << 14):
            for row in batch.to_pylist():
                whole = row["shard"] is not None
                yield row["image_id"], shards.read_member(self.data, shards.Place.of(row)) if whole else None


def _open(folder: Path) -> _Set:
    data = next((place.parent for place in folder.resolve().parents if place.name in ("raw", "clean")), None)
    if data is None:
        raise UserError(f"{folder}: no set of the pipeline; expected one such as data/clean/train")
    found = pairs.read_pair_set(folder)
    blank = found.images["shard"].is_null()
    true = pairs.select_true_pairs(found)
    image_rows = pc.index_in(true["image_id"], value_set=found.images["image_id"].combine_chunks())
    text_rows = pc.index_in(true["text_id"], value_set=found.texts["text_id"].combine_chunks())
    whole = pc.and_(image_rows.is_valid(), text_rows.is_valid())
    whole = pc.and_(whole, pc.invert(pc.fill_null(pc.take(blank, image_rows), True)))
    image_rows, text_rows = (rows.filter(whole).to_numpy().astype(np.int64) for rows in (image_rows, text_rows))
    left_out = Counter({"pictures without bytes": found.images["shard"].null_count})
    left_out["pairs with label 0"] = found.pairs.num_rows - true.num_rows
    left_out["pairs without picture or text"] = true.num_rows - len(image_rows)
    left_out["shards that stay where they are"] = pairs.read_shards(folder).num_rows
    return _Set(data, found.images, found.texts, image_rows, text_rows, left_out)


def _chinese_clip(sets: dict[str, _Set], out: Path) -> None:
    """Ids become numbers, which Chinese-CLIP needs; ids.csv says whose they are."""
    with open(out / "ids.csv", "w", encoding="utf-8", newline="") as file:
        ids = csv.writer(file, lineterminator="\n")
        ids.writerow(("split", "item", "number", "id"))
        image_numbers, text_numbers = count(1), count(1)
        for name, found in sets.items():
            numbers: dict[int, int] = {}  # row -> number of the pictures written
            with open(out / f"{name}_imgs.tsv", "wb") as pictures:
                shown = follow(found.pictures(), f"export {name}", found.images.num_rows)
                for row, (image_id, data) in enumerate(shown):
                    if data is not None:
                        numbers[row] = next(image_numbers)
                        ids.writerow((name, "image", numbers[row], image_id))
                        pictures.write(b"%d\t%s\n" % (numbers[row], base64.b64encode(data)))
            columns = (found.texts[column].to_pylist() for column in ("text_id", "caption"))
            groups = _grouped(found.image_rows, found.text_rows, found.texts.num_rows)
            with open(out / f"{name}_texts.jsonl", "w", encoding="utf-8") as texts:
                for (text_id, caption), rows in zip(zip(*columns, strict=True), groups, strict=True):
                    number = next(text_numbers)
                    ids.writerow((name, "text", number, text_id))
                    line = {"text_id": number, "text": caption, "image_ids": [numbers[row] for row in rows]}
                    texts.write(json.dumps(line, ensure_ascii=False) + "\n")


def _webdataset(sets: dict[str, _Set], out: Path, shard_bytes: int) -> None:
    """A folder of tars for each set, and the list of all of them, shards.csv."""
    for name, found in sets.items():
        captions = found.texts["caption"].to_pylist()
        groups = _grouped(found.text_rows, found.image_rows, found.images.num_rows)
        shown = follow(found.pictures(), f"export {name}", found.images.num_rows)
        found.left_out["texts without a picture"] = found.texts.num_rows - len(np.unique(found.text_rows))
        with shards.ShardWriter(out, name, shard_bytes) as writer:
            for row, ((image_id, data), texts) in enumerate(zip(shown, groups, strict=True)):
                for extension, content in _members(image_id, data, [captions[text] for text in texts]):
                    writer.add(f"{row:09d}.{extension}", content)
    with open(out / "shards.csv", "w", encoding="utf-8", newline="") as file:
        tars = sorted(out.rglob("*.tar"))
        webdataset.write_shard_list(file, tars, map(webdataset.measure_shard, tars))


def _members(image_id: str, data: bytes | None, captions: list[str]) -> Iterator[tuple[str, bytes]]:
    """(extension, bytes): the picture, its captions as json, and the first as txt, which many programs want."""
    if data is None:
        return
    yield next((kind for start, kind in KINDS if data.startswith(start)), "jpg"), data
    if captions:
        known: dict[str, Any] = {"image_id": image_id, "caption": captions}
        yield "json", json.dumps(known, ensure_ascii=False).encode()
        # a mark at the start of a caption is told from the file's own by a second one
        yield "txt", captions[0].encode("utf-8-sig" if captions[0].startswith("\ufeff") else "utf-8")


def _grouped(values: pairs.RowNumbers, keys: pairs.RowNumbers, size: int) -> Iterator[list[int]]:
    """For each key 0 … size-1 the values that stand beside it, in their order."""
    order = np.argsort(keys, kind="stable")
    bounds = np.searchsorted(keys[order], np.arange(size + 1))
    for start, stop in pairwise(bounds):
        yield values[order[start:stop]].tolist()
