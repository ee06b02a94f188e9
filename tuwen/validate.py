"""The raw sets judged, cleaned, split and written: doctor.py measures, checks.py judges, split.py deals out."""

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tuwen import checks, manifest, pairs, quarantine, shards
from tuwen.executor import make_executor
from tuwen.params import Split, Validate
from tuwen.quarantine import TASKS, Judged
from tuwen.split import assign, merge_captions, near_clusters, split_groups, subset, with_groups

SPLITS = ("train", "valid", "test")
# The contest's own form: file -> (table, columns)
CONTEST = {
    "t2i": {"word_test.csv": ("texts", ["text_id", "caption"]), "image_data.csv": ("images", ["image_id"])},
    "i2t": {"image_test.csv": ("images", ["image_id"]), "word_data.csv": ("texts", ["text_id", "caption"])},
}


def validate(raw: Path, clean: Path, params: Validate, split: Split) -> None:
    """Write every clean set, `quarantine.parquet` and `quality.json` into `clean` from the sets in `raw`.

    Raises UserError, with place, value and fix, on a critical fault; the quarantine is written before the gate
    on its size, so that a user sees the rows.
    """
    with make_executor() as executor:
        judged = {name: quarantine.judge(raw / name, params, executor) for name in pairs.RAW_SETS}
    tables = [table for found in judged.values() for table in found.tables.values()]
    pairs.write_table(clean / "quarantine.parquet", pa.concat_tables([table.listed() for table in tables]))
    for table in tables:
        table.judge_outcome(params)
    parts, figures = _deal(judged["labelled"], split)
    made = _compose(judged, parts)
    for name in (*SPLITS, "bank"):
        judge_positives(clean / name, made[name])
    for name in pairs.CLEAN_SETS:
        shutil.rmtree(clean / name, ignore_errors=True)  # nothing of an earlier run may stay beside the new files
    for name in ("valid", "test"):
        made[name] = replace(made[name], images=_repack(clean / name, made[name].images))
    origin = dict.fromkeys((*SPLITS, "bank"), "labelled") | {name: name for name in ("corpus", *TASKS)}
    for name in TASKS:
        if not len(made[name].images):
            made[name], origin[name] = made["test"], "labelled"
    for name in pairs.CLEAN_SETS:
        _write(clean / name, made[name], raw / origin[name], params, split)
    _write_quality(clean / "quality.json", judged, made, parts, figures)


def _deal(labelled: Judged, split: Split) -> tuple[dict[str, pairs.PairSet], dict[str, Any]]:
    """The clean labelled pairs dealt out to the splits, and the figures about their groups."""
    tables = labelled.tables
    pictures = tables["images"].clean.reset_index(drop=True)
    captions = tables["texts"].frame.set_index("text_id")["normalised"]
    carried = tables["pairs"].clean.assign(normalised=tables["pairs"].clean["text_id"].map(captions))
    pictures["split_group"] = split_groups(pictures, carried)
    sizes = pictures["split_group"].value_counts().rename_axis("group").reset_index(name="pictures")
    verdicts = checks.run(sizes, checks.group_suite(len(pictures)))
    checks.stop_on_critical(tables["images"].place, sizes, verdicts)
    pictures["split"] = pictures["split_group"].map(assign(pictures["split_group"], split))
    grouped = replace(labelled.clean, images=with_groups(labelled.clean.images, pictures["split_group"].tolist()))
    parts = {name: subset(grouped, pictures["image_id"][pictures["split"] == name].tolist()) for name in SPLITS}
    assert_whole(grouped, parts)
    near = pictures["split"].groupby(near_clusters(pictures)).transform("nunique")
    figures = {
        "groups": len(sizes),
        "groups_of_several_pictures": int((sizes["pictures"] > 1).sum()),
        "largest_group_pictures": int(sizes["pictures"].max()),
        "near_equal_pictures_across_splits": int((near > 1).sum()),  # where the source's groups part them
    }
    return parts, figures


def assert_whole(labelled: pairs.PairSet, parts: Mapping[str, pairs.PairSet]) -> None:
    """Every clean picture and pair stands in one split, every text in at least one, no group in two."""
    for table, key in (("images", "image_id"), ("pairs", "pair_id")):
        dealt = [name for part in parts.values() for name in getattr(part, table)[key].to_pylist()]
        assert sorted(dealt) == sorted(getattr(labelled, table)[key].to_pylist()), f"{table}: rows lost or doubled"
    texts = {text_id for part in parts.values() for text_id in part.texts["text_id"].to_pylist()}
    assert texts == set(labelled.texts["text_id"].to_pylist()), "texts: rows lost"
    groups = [set(part.images["group"].to_pylist()) for part in parts.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)), "a group spans splits"


def _compose(judged: Mapping[str, Judged], parts: Mapping[str, pairs.PairSet]) -> dict[str, pairs.PairSet]:
    texts = judged["labelled"].tables["texts"].frame
    normalised = dict(zip(texts["text_id"], texts["normalised"], strict=True))
    merged = {name: merge_captions(part, normalised) for name, part in parts.items()}
    asked = {name: judged[name].clean for name in ("corpus", *TASKS)}
    return {
        "train": parts["train"],
        "bank": merged["train"],
        "valid": merged["valid"],
        "test": merged["test"],
    } | asked


def judge_positives(folder: Path, pair_set: pairs.PairSet) -> None:
    """Raise UserError where a picture or text of the set that becomes `folder` has no true item to find."""
    for table, key in (("images", "image_id"), ("texts", "text_id")):
        frame = getattr(pair_set, table).select([key]).to_pandas()
        frame["positives"] = frame[key].map(pair_set.pairs[key].to_pandas().value_counts()).fillna(0)
        verdicts = checks.run(frame, checks.positives_suite())
        checks.stop_on_critical(folder / f"{table}.parquet", frame, verdicts)


def _repack(folder: Path, images: pa.Table) -> pa.Table:
    """Copy the pictures' bytes into `folder/shards`; the images table that points there."""
    data = folder.parent.parent
    rows = images.to_pylist()
    with shards.ShardWriter(data, f"{folder.relative_to(data)}/shards") as writer:
        for row in rows:
            encoded = shards.read(data, row["shard"], row["offset"], row["size"])
            row |= writer.add(row["image_id"], encoded)._asdict()
    return pa.Table.from_pylist(rows, pairs.IMAGES)


def _write(folder: Path, pair_set: pairs.PairSet, origin: Path, params: Validate, split: Split) -> None:
    pairs.write(folder, pair_set)
    for name, (table, columns) in CONTEST.get(folder.name, {}).items():
        with open(folder / name, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*(getattr(pair_set, table)[c].to_pylist() for c in columns), strict=True))
    used = {"validate": params.model_dump()}
    if origin.name == "labelled":  # the other sets do not change with the split, nor may what is made from them
        used["split"] = split.model_dump()
    manifest.write(folder, {origin.name: origin}, used)


def _write_quality(
    path: Path,
    judged: Mapping[str, Judged],
    made: Mapping[str, pairs.PairSet],
    parts: Mapping[str, pairs.PairSet],
    figures: Mapping[str, Any],
) -> None:
    """Counts and verdicts as one JSON file: what DVC shows as metrics."""
    sizes = {
        name: {"images": len(s.images), "texts": len(s.texts), "pairs": len(s.pairs)} for name, s in made.items()
    }
    for name, part in (("valid", "valid"), ("test", "test"), ("bank", "train")):
        sizes[name]["merged_captions"] = len(parts[part].texts) - len(made[name].texts)
    body = {
        "raw": {name: _counts(found) for name, found in judged.items()},
        "clean": sizes,
        "groups": figures,
        "checks": {name: _verdicts(found) for name, found in judged.items()},
    }
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _counts(found: Judged) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for name, table in found.tables.items():
        rows, clean = len(table.frame), len(table.clean)
        counts[name] = {"in": rows, "clean": clean, "quarantined": rows - clean, "faults": table.reasons}
    formats = found.tables["images"].frame["format"].value_counts().sort_index()
    counts["formats"] = {str(name): int(count) for name, count in formats.items()}
    counts["side_words"] = int(found.tables["texts"].frame["side_word"].sum())
    return counts


def _verdicts(found: Judged) -> dict[str, Any]:
    return {
        name: {
            verdict.name: {
                "severity": verdict.severity,
                "success": verdict.success,
                "unexpected": verdict.unexpected,
            }
            for verdict in table.verdicts
        }
        for name, table in found.tables.items()
    }
