"""The stored views: shards of JPEGs and captions, made in parallel, shard by shard; a killed run goes on.

Work in progress lies in `.cache/augment/<key>`, because DVC deletes outs before a run. There a shard is finished
when its tar and the Parquet table of its views both stand; each is written under another name and renamed.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tuwen.core.executor import make_executor
from tuwen.core.params import Augment
from tuwen.core.params import Image as ImageParams
from tuwen.core.progress import follow
from tuwen.data.augment.views import PARAPHRASES, ROWS, VIEWS, Viewer, find_positive, list_rows, read_paraphrases
from tuwen.data.formats import manifest, pairs, shards
from tuwen.data.formats.images import Pixels, decode_pixels

SPLITS = ("train", "valid", "test")
PAIRS_PER_SHARD = 512  # about 110 MB of views at 224 px
WORK = Path(".cache/augment")
TRANSLATIONS = Path(".cache/translate")  # kept: with another policy the captions need no second translation
DECIDING_CODE = ("data/augment", "data/formats")

SPLIT = pa.field("split", pa.string())
SPLIT_ROWS = ROWS.append(SPLIT)


def augment(clean: Path, augmented: Path, params: Augment, image: ImageParams) -> None:
    """Write `params.views` views of every true pair of the sets `params.splits` of the folder `clean`.

    `augmented` gets `views.parquet` (VIEWS, in the order of train, valid, test and their pairs), `shards/`,
    `paraphrases.parquet` and a manifest; with `params.mode` online no shards, and no rows in `views.parquet`. Each
    shard is one task of the executor, so the bytes depend neither on the workers nor on a kill between.
    """
    data, sets = augmented.parent, {str(split): clean / split for split in SPLITS if split in params.splits}
    settings = {"augment": params.model_dump(), "image": image.model_dump()}
    work = WORK / manifest.make_work_key(sets, settings, DECIDING_CODE)
    work.mkdir(parents=True, exist_ok=True)
    pair_sets = {split: pairs.read_pair_set(folder) for split, folder in sets.items()}
    paraphrases = _paraphrases(list(pair_sets.values()), params, work)
    digests = list[str]()
    if params.mode == "stored":
        count = _plan(work, {split: list_rows(pair_set, paraphrases) for split, pair_set in pair_sets.items()})
        make = partial(
            _make_shard, data.resolve(), work.resolve(), f"{augmented.name}/shards", params, image.size_px
        )
        digests = _make_shards(make, work, count)

    shutil.rmtree(augmented, ignore_errors=True)
    (augmented / "shards" if digests else augmented).mkdir(parents=True)
    tables = [pairs.read_table(work / f"{number:06d}.parquet", VIEWS) for number in range(len(digests))]
    pairs.write_table(
        augmented / "views.parquet", pa.concat_tables([VIEWS.empty_table(), *tables]).combine_chunks()
    )
    shutil.copyfile(work / "paraphrases.parquet", augmented / "paraphrases.parquet")
    known = {f"shards/{number:06d}.tar": digest for number, digest in enumerate(digests)}
    for name in known:
        _place(work / Path(name).name, augmented / name)
    manifest.write_manifest(augmented, sets, settings, known)
    shutil.rmtree(work)


def _place(made: Path, out: Path) -> None:
    """Give the file a second name; the first stays until everything stands."""
    try:
        os.link(made, out)
    except OSError:  # another file system
        shutil.copyfile(made, out)


def _paraphrases(pair_sets: list[pairs.PairSet], params: Augment, work: Path) -> dict[str, str]:
    """Made once: a second translation need not give the same words, and the shards that stand have these."""
    path = work / "paraphrases.parquet"
    if not path.is_file():
        from tuwen.data.augment.paraphrase import paraphrase

        captions = [
            pair_set.texts["caption"].take(pairs.find_true_rows(pair_set)[1]).to_pylist() for pair_set in pair_sets
        ]
        found = paraphrase(sorted(set().union(*captions)), params.paraphrase, params.seed, TRANSLATIONS)
        columns = list(zip(*sorted(found.items()), strict=True)) or [(), ()]
        pairs.write_table(work / "paraphrases.part", pa.table(columns, PARAPHRASES))
        os.replace(work / "paraphrases.part", path)
    return read_paraphrases(work)


def _plan(work: Path, rows: Mapping[str, pa.Table]) -> int:
    """Write what is to be made, one row group for each shard; how many there are. No shard mixes splits."""
    count = 0
    with pq.ParquetWriter(work / "rows.part", SPLIT_ROWS) as writer:
        for split, of_split in rows.items():
            named = of_split.append_column(SPLIT, pa.array([split] * len(of_split), pa.string()))
            for start in range(0, len(named), PAIRS_PER_SHARD):
                writer.write_table(named.slice(start, PAIRS_PER_SHARD))
                count += 1
    os.replace(work / "rows.part", work / "rows.parquet")
    return count


def _make_shards(make: "partial[str]", work: Path, count: int) -> list[str]:
    """Make the shards that do not stand yet; the sha256 of all."""
    standing = [
        n for n in range(count) if all((work / f"{n:06d}.{kind}").is_file() for kind in ("tar", "parquet"))
    ]
    waiting = sorted(set(range(count)) - set(standing))
    if standing:
        print(f"goes on after {len(standing)} of {count} shards, found in {work}", flush=True)
    digests = {number: manifest.hash_file(work / f"{number:06d}.tar") for number in standing}
    with make_executor() as executor:
        done = follow(executor.map(make, waiting), "augment", len(waiting))
        digests |= dict(zip(waiting, done, strict=True))
    return [digests[number] for number in range(count)]


def _make_shard(data: Path, work: Path, folder: str, params: Augment, size_px: int, number: int) -> str:
    """Make shard `number`, in a worker; returns its sha256. Two that make the same one do not meet."""
    rows = pq.ParquetFile(work / "rows.parquet").read_row_group(number).to_pylist()
    viewer = Viewer(params.policy, size_px, params.seed)
    part = Path(tempfile.mkdtemp(dir=work))
    with shards.ShardWriter(part, folder, max_bytes=1 << 40, first=number) as writer:
        made = [view for row in rows for view in _views_of(data, viewer, params, row, writer)]
    pairs.write_table(part / "views.parquet", pa.Table.from_pylist(made, VIEWS))
    digest = manifest.hash_file(part / folder / f"{number:06d}.tar")
    os.replace(part / folder / f"{number:06d}.tar", work / f"{number:06d}.tar")
    os.replace(part / "views.parquet", work / f"{number:06d}.parquet")
    shutil.rmtree(part)
    return digest


def _views_of(
    data: Path, viewer: Viewer, params: Augment, row: dict[str, Any], writer: shards.ShardWriter
) -> Iterator[dict[str, Any]]:
    picture = decode_pixels(shards.read_member(data, shards.Place.of(row)))
    for number in range(params.views):
        view, view_id = viewer.view(picture, row, number), f"{row['pair_id']}.{number}"
        member = writer.add(f"{view_id}.jpg", _encoded(view.pixels, params.jpeg_quality))
        writer.add(f"{view_id}.txt", view.caption.encode())
        yield {
            "view_id": view_id,
            "pair_id": row["pair_id"],
            "view": number,
            "split": row["split"],
            "positive_id": find_positive(row, view.flipped),
            "caption": view.caption,
            "flipped": view.flipped,
            "reworded": view.reworded and view.reworded.replace("paraphrase", params.paraphrase.kind),
            "recipe": view.recipe,
            "shard": member.shard,
            "offset": member.offset,
            "size": member.size,
        }


def _encoded(pixels: Pixels, quality: int) -> bytes:
    """A JPEG that keeps every pixel's colours (4:4:4): in small views they are much of what is seen."""
    import cv2

    settings = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), settings)[1])
