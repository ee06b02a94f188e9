"""The stored views: shards of JPEGs and captions, made in parallel, shard by shard; a killed run is resumed.

Work in progress lies in `.cache/augment/<key>`, because DVC deletes outs before a run. There a shard is finished
when its tar and the Parquet table of its views are both there; each is written under another name and renamed.
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
from tuwen.core.versions import read_versions
from tuwen.data.augment.views import (
    PAIR_ROWS,
    PARAPHRASES,
    VIEWS,
    Viewer,
    find_positive,
    list_rows,
    read_paraphrases,
)
from tuwen.data.formats import manifest, pairs, shards
from tuwen.data.formats.images import Pixels, decode_pixels

PAIRS_PER_SHARD = 512  # about 110 MB of views at 224 px
WORK_CACHE = Path(".cache/augment")
TRANSLATION_CACHE = Path(".cache/translate")  # kept: with another policy the captions need no second translation
DECIDING_CODE = ("data/augment", "data/formats")

SPLIT = pa.field("split", pa.string())
ROWS_WITH_SPLIT = PAIR_ROWS.append(SPLIT)


def augment(clean: Path, augmented: Path, params: Augment, image: ImageParams) -> None:
    """Write `params.views` views of every true pair of the sets `params.splits` of the folder `clean`.

    `augmented` gets `views.parquet` (VIEWS, in the order of train, valid, test and their pairs), `shards/`,
    `paraphrases.parquet` and a manifest; with `params.mode` online no shards, and no rows in `views.parquet`. Each
    shard is one task of the executor, so the bytes depend neither on the workers nor on a kill between.
    """
    data = augmented.parent
    sets: dict[str, Path] = {name: clean / name for name in pairs.CLEAN_SETS if name in params.splits}
    settings = {"augment": params.model_dump(), "image": image.model_dump()}
    made_with = settings | {"versions": read_versions([f"data.paraphrase.{params.paraphrase.kind}"])}
    work = WORK_CACHE / manifest.make_work_key(sets, made_with, DECIDING_CODE)
    work.mkdir(parents=True, exist_ok=True)
    pair_sets = {split: pairs.read_pair_set(folder) for split, folder in sets.items()}
    paraphrases = _make_paraphrases(list(pair_sets.values()), params, work)
    digests = list[str]()
    if params.mode == "stored":
        count = _write_plan(work, {name: list_rows(one, paraphrases) for name, one in pair_sets.items()})
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
    known_digests = {f"shards/{number:06d}.tar": digest for number, digest in enumerate(digests)}
    for name in known_digests:
        _link(work / Path(name).name, augmented / name)
    manifest.write_manifest(augmented, sets, {}, known_digests)
    shutil.rmtree(work)


def _link(finished: Path, out: Path) -> None:
    """Give the file a second name; the first stays until all outs are complete."""
    try:
        os.link(finished, out)
    except OSError:  # another file system
        shutil.copyfile(finished, out)


def _make_paraphrases(pair_sets: list[pairs.PairSet], params: Augment, work: Path) -> dict[str, str]:
    """Make the paraphrases, or read those of a killed run, since its finished shards hold them.

    A second translation need not give the same words.
    """
    path = work / "paraphrases.parquet"
    if not path.is_file():
        from tuwen.data.augment.paraphrase import paraphrase

        captions = [
            pair_set.texts["caption"].take(pairs.find_true_rows(pair_set)[1]).to_pylist() for pair_set in pair_sets
        ]
        paraphrases = paraphrase(sorted(set().union(*captions)), params.paraphrase, params.seed, TRANSLATION_CACHE)
        columns = list(zip(*sorted(paraphrases.items()), strict=True)) or [(), ()]
        pairs.write_table(work / "paraphrases.part", pa.table(columns, PARAPHRASES))
        os.replace(work / "paraphrases.part", path)
    return read_paraphrases(work)


def _write_plan(work: Path, rows: Mapping[str, pa.Table]) -> int:
    """Write the pairs to make views of, one row group per shard; return the number. No shard mixes splits."""
    count = 0
    with pq.ParquetWriter(work / "rows.part", ROWS_WITH_SPLIT) as writer:
        for split, table in rows.items():
            planned = table.append_column(SPLIT, pa.array([split] * len(table), pa.string()))
            for start in range(0, len(planned), PAIRS_PER_SHARD):
                writer.write_table(planned.slice(start, PAIRS_PER_SHARD))
                count += 1
    os.replace(work / "rows.part", work / "rows.parquet")
    return count


def _make_shards(make: "partial[str]", work: Path, count: int) -> list[str]:
    """Make the shards that are not finished yet; return the sha256 of all."""
    finished = [
        n for n in range(count) if all((work / f"{n:06d}.{kind}").is_file() for kind in ("tar", "parquet"))
    ]
    waiting = sorted(set(range(count)) - set(finished))
    if finished:
        print(f"goes on after {len(finished)} of {count} shards, found in {work}", flush=True)
    digests = {number: manifest.hash_file(work / f"{number:06d}.tar") for number in finished}
    plan = pq.ParquetFile(work / "rows.parquet").metadata
    pairs_of = [plan.row_group(number).num_rows for number in range(count)]
    with make_executor() as executor:
        made = zip(waiting, executor.map(make, waiting), strict=True)
        total = sum(pairs_of[number] for number in waiting)
        digests |= dict(follow(made, "augment pairs", total, lambda one: pairs_of[one[0]]))
    return [digests[number] for number in range(count)]


def _make_shard(data: Path, work: Path, folder: str, params: Augment, size_px: int, number: int) -> str:
    """Make shard `number` in a worker and return its sha256. Two workers may make the same one without harm."""
    rows = pq.ParquetFile(work / "rows.parquet").read_row_group(number).to_pylist()
    viewer = Viewer(params.policy, size_px, params.seed)
    part = Path(tempfile.mkdtemp(dir=work))
    with shards.ShardWriter(part, folder, max_bytes=1 << 40, first=number) as writer:
        views = [view for row in rows for view in _write_views(data, viewer, params, row, writer)]
    pairs.write_table(part / "views.parquet", pa.Table.from_pylist(views, VIEWS))
    digest = manifest.hash_file(part / folder / f"{number:06d}.tar")
    os.replace(part / folder / f"{number:06d}.tar", work / f"{number:06d}.tar")
    os.replace(part / "views.parquet", work / f"{number:06d}.parquet")
    shutil.rmtree(part)
    return digest


def _write_views(
    data: Path, viewer: Viewer, params: Augment, row: dict[str, Any], writer: shards.ShardWriter
) -> Iterator[dict[str, Any]]:
    """Write all views of a pair and yield a row of VIEWS for each."""
    image = decode_pixels(shards.read_member(data, shards.Place.of(row)))
    for number in range(params.views):
        view, view_id = viewer.render(image, row, number), f"{row['pair_id']}.{number}"
        member = writer.append(f"{view_id}.jpg", _encode_jpeg(view.pixels, params.jpeg_quality))
        writer.append(f"{view_id}.txt", view.caption.encode())
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


def _encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """Return a JPEG that keeps every pixel's colours (4:4:4): in small views they are much of what is seen."""
    import cv2

    settings = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), settings)[1])
