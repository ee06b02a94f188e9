"""Writes the clean sets: tables, manifests, shards of their own for valid and test, the contest's task files."""

import csv
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from tuwen.data.formats import manifest, pairs, shards
from tuwen.data.formats.json_file import write_json
from tuwen.data.quality.examined_table import TASK_SETS

# The contest's own task files: task set -> file -> (table, columns)
CONTEST_FILES = {
    "t2i": {"word_test.csv": ("texts", ["text_id", "caption"]), "image_data.csv": ("images", ["image_id"])},
    "i2t": {"image_test.csv": ("images", ["image_id"]), "word_data.csv": ("texts", ["text_id", "caption"])},
}


def write_clean_sets(
    clean: Path,
    pair_sets: Mapping[str, pairs.PairSet],
    elsewhere: pa.Table,
    held_out: pa.Table,
    limits: pairs.Limits,
) -> dict[str, pairs.PairSet]:
    """Write all sets of `pair_sets` below `clean`, and return them as written.

    valid and test get shards of their own, and so does a task that the test split stands in for; other images
    stay in the raw shards. elsewhere: the corpus shards that stay where they are. held_out: what they may not
    show (`pairs.HELD_OUT`). limits: what their rows may be. The sets hold no settings, which reach what stands
    below by the rows that they change, or not at all.
    """
    for name in pairs.CLEAN_SETS:
        shutil.rmtree(clean / name, ignore_errors=True)  # nothing of an earlier run may stay beside the new files
    lacking = [name for name in TASK_SETS if not len(pair_sets[name].images) and not len(pair_sets[name].texts)]
    written = {**pair_sets, **dict.fromkeys(lacking, pair_sets["test"])}
    for name in pairs.CLEAN_SETS:
        if name in ("valid", "test", *lacking):
            written[name] = replace(written[name], images=_repack(clean / name, written[name].images))
        pairs.write_pair_set(clean / name, written[name])
        _write_task(clean / name, written[name])
        if name == "corpus":
            pairs.write_table(clean / name / "shards.parquet", elsewhere)
            pairs.write_table(clean / name / "held_out.parquet", held_out)
            if len(elsewhere):
                write_json(clean / name / pairs.LIMITS, limits._asdict())
        manifest.write_manifest(clean / name, {}, {})
    return written


def _repack(folder: Path, images: pa.Table) -> pa.Table:
    """Copy the images' bytes into `folder/shards`; return the images table that points there."""
    data = folder.parent.parent
    rows = images.to_pylist()
    with shards.ShardWriter(data, f"{folder.relative_to(data)}/shards") as writer:
        for row in rows:
            encoded = shards.read_member(data, shards.Place.of(row))
            row |= writer.add(row["image_id"], encoded)._asdict()
    return pa.Table.from_pylist(rows, pairs.IMAGES)


def _write_task(folder: Path, pair_set: pairs.PairSet) -> None:
    for name, (table, columns) in CONTEST_FILES.get(folder.name, {}).items():
        with open(folder / name, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*(getattr(pair_set, table)[c].to_pylist() for c in columns), strict=True))
