"""The raw sets judged, cleaned, split and written: doctor.py measures, checks.py judges, split.py deals out."""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tuwen.core.errors import UserError
from tuwen.core.executor import make_executor
from tuwen.core.params import Split, Validate
from tuwen.data.formats import pairs
from tuwen.data.formats.json_file import write_json
from tuwen.data.quality import clean_sets, consistency, corpus, expectations, quarantine, suites, summary
from tuwen.data.quality.quarantine import TASKS, Judged
from tuwen.data.quality.split import (
    SPLITS,
    across,
    copies,
    deal,
    join_copies,
    leaks_prevented,
    merge_captions,
    split_groups,
    subset,
    with_groups,
)
from tuwen.report.quality import page

if TYPE_CHECKING:
    import pandas as pd


def validate(
    raw: Path,
    clean: Path,
    params: Validate,
    dealing: Split,
    sources: Sequence[str],
    max_tokens: int,
    docs: Path | None = None,
) -> None:
    """Write every clean set, `quarantine.*` and `quality.*` into `clean` from the sets in `raw`.

    sources: the names under raw/corpus; max_tokens: what a model reads of a caption; docs: where Great
    Expectations' own pages go. Raises UserError, with place, value and fix, on a critical fault; the quarantine is
    written before the gate on its size, so that a user sees the rows.
    """
    sources = sorted(sources)
    _refuse_leftovers(raw / "corpus", sources)
    with make_executor() as executor:
        names = (*pairs.RAW_SETS, *(f"corpus/{name}" for name in sources))
        judged = {name: quarantine.judge(raw / name, name, params, max_tokens, executor) for name in names}
        _write_quarantine(clean, judged)
        for table in _tables(judged):
            table.judge_outcome(params)
        for name in TASKS:
            judged[name].tables[quarantine.GALLERIES[name]].judge(suites.gallery_suite())
        in_place = corpus.judge_in_place(raw / "corpus", sources, params, max_tokens, executor)
    labelled, collected = judged["labelled"], {name: judged[f"corpus/{name}"] for name in sources}
    consistency.find_inconsistencies([labelled], params)
    consistency.find_inconsistencies(list(collected.values()), params)
    try:
        parts, seen, further = _deal(labelled, params, dealing)
    except UserError:
        _write_quarantine(clean, judged)  # the rows that the message is about left only now
        raise
    for one in collected.values():
        corpus.leave_out(one, seen)
    further["drift"] = _judge_drift(judged, params)
    further["corpus"] = {name: found.figures(seen) for name, found in in_place.items()}
    made = _compose(judged, collected, parts)
    for name in (*SPLITS, "bank"):
        judge_positives(clean / name, made[name])
    used = {"validate": params.model_dump(), "split": dealing.model_dump()}
    made = clean_sets.write(raw, clean, made, corpus.shards_of(in_place), sources, used)
    body = summary.body(judged, in_place, made, further)
    for name, part in (("valid", "valid"), ("test", "test"), ("bank", "train")):
        body["clean"][name]["merged_captions"] = len(parts[part].texts) - len(made[name].texts)
    _write_quality(clean, body, summary.frames(judged, in_place), _write_quarantine(clean, judged))
    if docs is not None:
        _write_docs(docs, summary.verdicts(judged, in_place))


def _refuse_leftovers(corpus_folder: Path, sources: Sequence[str]) -> None:
    """Raise UserError for a source that params.yaml no longer names: DVC hashes it with those that it does."""
    left = sorted(path.name for path in corpus_folder.glob("*/") if path.name not in sources)
    if left:
        raise UserError(
            f"{corpus_folder / left[0]}: params.yaml: corpus does not name {left[0]}; remove that folder "
            "(DVC's cache keeps what it made), or name the source again"
        )


def _tables(judged: Mapping[str, Judged]) -> list[quarantine.Table]:
    return [table for found in judged.values() for table in found.tables.values()]


def _write_quarantine(clean: Path, judged: Mapping[str, Judged]) -> pa.Table:
    listed = pa.concat_tables([table.listed() for table in _tables(judged)])
    pairs.write_table(clean / "quarantine.parquet", listed)
    with open(clean / "quarantine.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(quarantine.CSV_COLUMNS)
        writer.writerows(zip(*(listed[name].to_pylist() for name in quarantine.CSV_COLUMNS), strict=True))
    return listed


def _deal(
    labelled: Judged, params: Validate, dealing: Split
) -> "tuple[dict[str, pairs.PairSet], pd.DataFrame, dict[str, Any]]":
    """The clean labelled pairs dealt out to the splits, the measured pictures of valid and test, and figures."""
    if dealing.official:
        _judge_official(labelled.images)
    captions = labelled.texts.frame.set_index("text_id")["normalised"]
    links = labelled.links.clean
    fitting = links[links["label"].ne(0).fillna(True)]
    pictures = labelled.images.clean.copy()
    pictures["split_group"] = split_groups(pictures, fitting.assign(normalised=fitting["text_id"].map(captions)))
    pictures["copies"] = copies(pictures)
    sizes = pictures["split_group"].value_counts().rename_axis("group").reset_index(name="pictures")
    verdicts = expectations.run(sizes, suites.group_suite(params, len(pictures)))
    expectations.stop_on_critical(labelled.images.place, sizes, verdicts)
    pictures["dealt"], reaches = deal(pictures, dealing)
    labelled.images.frame["reaches"] = reaches.reindex(labelled.images.frame.index)
    if labelled.images.judge(suites.leak_suite()):
        quarantine.settle(labelled)
    kept, clean = pictures.loc[labelled.images.clean.index], labelled.clean()
    grouped = replace(clean, images=join_copies(with_groups(clean.images, kept["split_group"].tolist())))
    parts = {name: subset(grouped, kept["image_id"][kept["dealt"] == name].tolist()) for name in SPLITS}
    assert_whole(grouped, parts)
    _judge_splits(labelled.images.place, parts)
    elsewhere = across(kept["dealt"], kept["copies"])
    labelled.images.frame["near_elsewhere"] = elsewhere.reindex(labelled.images.frame.index, fill_value=False)
    labelled.images.judge(suites.across_suite())
    found = {
        "groups": {
            "groups": len(sizes),
            "groups_of_several_pictures": int((sizes["pictures"] > 1).sum()),
            "largest_group_pictures": int(sizes["pictures"].max()),
            # where the source's groups part them
            "near_equal_pictures_across_splits": int(elsewhere.sum()),
        },
        "leaks": {"prevented": leaks_prevented(pictures, dealing)}
        | {name: int((labelled.images.fault == name).sum()) for name in ("leaks_into_test", "leaks_into_valid")},
    }
    return parts, kept[kept["dealt"] != "train"], found


def _judge_official(images: quarantine.Table) -> None:
    """Raise UserError where no picture of a split of the source's own is clean: no other may take its place."""
    named, left = images.frame["split"].value_counts(), set(images.clean["split"].dropna())
    for split in SPLITS:
        if split in named and split not in left:
            raise UserError(
                f"{images.place}: split {split}: none of its {named[split]} pictures is clean; mend them in the "
                "source, clean/quarantine.csv names them, or set split.official to false"
            )


def _judge_splits(place: Path, parts: Mapping[str, pairs.PairSet]) -> None:
    for split in SPLITS:
        if not len(parts[split].images):
            raise UserError(
                f"{place}: split {split}: no picture is left, all of its groups reach a later split (as where "
                "valid is a copy of test); take the copies that clean/quarantine.csv names out of the source, "
                "or set split.official to false"
            )


def assert_whole(labelled: pairs.PairSet, parts: Mapping[str, pairs.PairSet]) -> None:
    """Every clean picture and pair stands in one split, every text in at least one, no group in two."""
    for table, key in (("images", "image_id"), ("pairs", "pair_id")):
        dealt = [name for part in parts.values() for name in getattr(part, table)[key].to_pylist()]
        assert sorted(dealt) == sorted(getattr(labelled, table)[key].to_pylist()), f"{table}: rows lost or doubled"
    texts = {text_id for part in parts.values() for text_id in part.texts["text_id"].to_pylist()}
    assert texts == set(labelled.texts["text_id"].to_pylist()), "texts: rows lost"
    groups = [set(part.images["group"].to_pylist()) for part in parts.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)), "a group spans splits"


def _judge_drift(judged: Mapping[str, Judged], params: Validate) -> dict[str, dict[str, float]]:
    """task -> measure -> distance from the labelled set, for what can be compared."""
    found = {}
    for name in TASKS:
        distances = consistency.drift(judged["labelled"].frames, judged[name].frames)
        if len(distances):
            judged[name].drift.extend(expectations.run(distances, suites.drift_suite(params)))
        found[name] = dict(zip(distances["measure"], distances["distance"].tolist(), strict=True))
    return found


def _compose(
    judged: Mapping[str, Judged], collected: Mapping[str, Judged], parts: Mapping[str, pairs.PairSet]
) -> dict[str, pairs.PairSet]:
    texts = judged["labelled"].texts.frame
    normalised = dict(zip(texts["text_id"], texts["normalised"], strict=True))
    merged = {name: merge_captions(part, normalised) for name, part in parts.items()}
    asked = {"corpus": corpus.join(collected)} | {name: judged[name].clean() for name in TASKS}
    return {
        "train": parts["train"],
        "bank": merged["train"],
        "valid": merged["valid"],
        "test": merged["test"],
    } | {name: replace(one, images=join_copies(one.images)) for name, one in asked.items()}


def judge_positives(folder: Path, pair_set: pairs.PairSet) -> None:
    """Raise UserError where a picture or text of the set that becomes `folder` has no true item to find.

    What stands in pairs with label 0 alone is there to be told apart from others; it asks for nothing.
    """
    true = pairs.select_true_pairs(pair_set)
    for table, key in (("images", "image_id"), ("texts", "text_id")):
        frame = getattr(pair_set, table).select([key]).to_pandas()
        frame["positives"] = frame[key].map(true[key].to_pandas().value_counts()).fillna(0)
        denied = frame[key].isin(pair_set.pairs[key].to_pandas()) & (frame["positives"] == 0)
        verdicts = expectations.run(frame[~denied], suites.positives_suite())
        expectations.stop_on_critical(folder / f"{table}.parquet", frame[~denied], verdicts)


def _write_quality(clean: Path, body: dict[str, Any], frames: "summary.Frames", listed: pa.Table) -> None:
    write_json(clean / "quality.json", body)
    page.write_page(clean / "quality.html", clean.parent, body, frames, listed)


def _write_docs(folder: Path, verdicts: Mapping[str, Mapping[str, list[expectations.Verdict]]]) -> None:
    """For people alone: whatever goes wrong here, the sets stand."""
    try:
        expectations.write_docs(
            folder, {f"{s}/{t}": found for s, tables in verdicts.items() for t, found in tables.items()}
        )
    except Exception as error:
        print(f"{folder}: Great Expectations' pages could not be written: {error!r:.200}", file=sys.stderr)
