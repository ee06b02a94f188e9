"""From raw sets to clean ones: measured, examined, cleaned, split and written."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from tuwen.core.errors import UserError
from tuwen.core.executor import make_executor
from tuwen.core.params import Split, Text, Validate
from tuwen.data.formats import pairs
from tuwen.data.formats.json_file import read_json, write_json
from tuwen.data.quality import clean_sets, consistency, corpus, expectations, quarantine, suites, summary
from tuwen.data.quality.dealing import Dealt, deal_labelled
from tuwen.data.quality.duplicates import captions
from tuwen.data.quality.duplicates.groups import join_copies
from tuwen.data.quality.examined_table import TASK_SETS, ExaminedTable
from tuwen.data.quality.quarantine import ExaminedSet
from tuwen.data.quality.split import merge_captions


class Validated(NamedTuple):
    """What the page of data quality shows, besides the images in the raw shards."""

    summary: dict[str, Any]  # the content of quality.json
    frames: "summary.Frames"
    quarantine: pa.Table  # the content of quarantine.parquet
    examples: "summary.Examples"


def validate(
    raw: Path,
    clean: Path,
    params: Validate,
    dealing: Split,
    sources: Sequence[str],
    text: Text,
    docs: Path | None = None,
) -> Validated:
    """Write every clean set, `quarantine.*` and `quality.json` into `clean` from the sets in `raw`.

    sources: the names under raw/corpus; text: how a model reads a caption; docs: where Great
    Expectations' own pages go. Raises UserError, with place, value and fix, on a critical finding; the quarantine
    is written before its size is examined, so that a user sees the rows.
    """
    sources = sorted(sources)
    examined, in_place = _examine_rows(raw, clean, params, sources, text)
    labelled, collected = examined["labelled"], {name: examined[f"corpus/{name}"] for name in sources}
    consistency.find_inconsistencies([labelled], params)
    consistency.find_inconsistencies(list(collected.values()), params)
    dealt = _deal(clean, examined, params, dealing)
    for source in collected.values():
        corpus.remove_held_out(source, dealt.held_out, labelled.images.frame)
    further = dealt.summary | {"drift": _examine_drift(examined, params)} | _collect_readings(raw, examined)
    further["corpus"] = {name: shards.summarise(dealt.held_out) for name, shards in in_place.items()}
    composed = _compose_sets(clean, examined, collected, dealt)
    captions.label_merged_rows(labelled, dealt.parts, composed)
    further["leaks"] |= {"captions": captions.measure_overlap(labelled, composed, collected)}
    elsewhere = corpus.collect_shards(in_place)
    held_out = corpus.list_held_out(dealt.held_out if len(elsewhere) else dealt.held_out[:0])
    limits = pairs.Limits(params.max_chars, params.max_pixels, params.min_side_px)
    written = clean_sets.write_clean_sets(clean, composed, elsewhere, held_out, limits)
    body = summary.make_summary(examined, in_place, written, further)
    _count_merged(body, dealt, written)
    write_json(clean / "quality.json", body)
    if docs is not None:
        _write_data_docs(docs, summary.group_findings(examined, in_place))
    frames, examples = summary.collect_frames(examined, in_place), summary.collect_example_rows(examined, in_place)
    return Validated(body, frames, _write_quarantine(clean, examined), examples)


def _examine_rows(
    raw: Path, clean: Path, params: Validate, sources: Sequence[str], text: Text
) -> tuple[dict[str, ExaminedSet], dict[str, corpus.InPlace]]:
    """Examine each row for itself: every raw set, and the corpus shards that stay where they are."""
    _refuse_leftovers(raw / "corpus", sources)
    names = (*pairs.RAW_SETS, *(f"corpus/{name}" for name in sources))
    with make_executor() as executor:
        examined = {name: quarantine.examine_set(raw / name, name, params, text, executor) for name in names}
        _write_quarantine(clean, examined)
        for table in _list_tables(examined):
            table.examine_outcome(params)
        for name in TASK_SETS:
            examined[name].tables[quarantine.GALLERIES[name]].examine(suites.build_gallery_suite())
        return examined, corpus.examine_in_place(raw / "corpus", sources, params, text, executor)


def _deal(clean: Path, examined: Mapping[str, ExaminedSet], params: Validate, dealing: Split) -> Dealt:
    try:
        return deal_labelled(examined["labelled"], params, dealing)
    except UserError:
        _write_quarantine(clean, examined)  # the rows that the message is about left only now
        raise


def _collect_readings(raw: Path, names: Iterable[str]) -> dict[str, Any]:
    """Return how ingest read the text files of each set, and what it noted and how often, where it did."""
    read = {name: readings for name in names if (readings := _read_readings(raw / name))}
    return ({"files": read} if read else {}) | _count_notes(raw, names)


def _count_notes(raw: Path, names: Iterable[str]) -> dict[str, dict[str, dict[str, int]]]:
    files = {name: raw / name / "notes.json" for name in names}
    notes = {name: read_json(path) for name, path in files.items() if path.is_file()}
    counts = {name: {what: note["count"] for what, note in some.items()} for name, some in notes.items()}
    return {"noted_by_ingest": counts} if counts else {}


def _read_readings(folder: Path) -> list[dict[str, Any]]:
    """Return how the text files of a raw set were read, as `ingest` wrote it; none where it read none."""
    path = folder / pairs.TEXT_FILES
    return list(read_json(path)) if path.is_file() else []


def _refuse_leftovers(corpus_folder: Path, sources: Sequence[str]) -> None:
    """Raise UserError for a source that params.yaml no longer names: DVC hashes it with those that it does."""
    left = sorted(path.name for path in corpus_folder.glob("*/") if path.name not in sources)
    if left:
        raise UserError(
            f"{corpus_folder / left[0]}: params.yaml: corpus does not name {left[0]}; remove that folder "
            "(DVC's cache keeps what it made), or name the source again"
        )


def _list_tables(examined: Mapping[str, ExaminedSet]) -> list[ExaminedTable]:
    return [table for one in examined.values() for table in one.tables.values()]


def _write_quarantine(clean: Path, examined: Mapping[str, ExaminedSet]) -> pa.Table:
    return quarantine.write_quarantine(clean, _list_tables(examined))


def _examine_drift(examined: Mapping[str, ExaminedSet], params: Validate) -> dict[str, dict[str, float]]:
    """Return task -> measure -> distance from the labelled set, for what can be compared."""
    drift = {}
    for name in TASK_SETS:
        distances = consistency.measure_drift(examined["labelled"].frames, examined[name].frames)
        if len(distances):
            examined[name].drift.extend(expectations.run_suite(distances, suites.build_drift_suite(params)))
        drift[name] = dict(zip(distances["measure"], distances["distance"].tolist(), strict=True))
    return drift


def _compose_sets(
    clean: Path, examined: Mapping[str, ExaminedSet], collected: Mapping[str, ExaminedSet], dealt: Dealt
) -> dict[str, pairs.PairSet]:
    """Return the clean sets by name; bank, valid and test hold each caption once, for all images that carry it.

    Raises UserError where a query of one has no true item.
    """
    texts = examined["labelled"].texts.frame
    normalised = dict(zip(texts["text_id"], texts["normalised"], strict=True))
    merged = {name: merge_captions(part, normalised) for name, part in dealt.parts.items()}
    others = {"corpus": corpus.join_sources(collected)}
    others |= {name: examined[name].select_clean() for name in TASK_SETS}
    answered = {"train": dealt.parts["train"], "bank": merged["train"]}
    answered |= {name: merged[name] for name in ("valid", "test")}
    for name, one in answered.items():
        require_positives(clean / name, one)
    return answered | {name: replace(one, images=join_copies(one.images)) for name, one in others.items()}


def _count_merged(body: dict[str, Any], dealt: Dealt, written: Mapping[str, pairs.PairSet]) -> None:
    """Add the texts that equal ones took in, and the pairs that another spelling of their caption made true."""
    for name, split in (("valid", "valid"), ("test", "test"), ("bank", "train")):
        part, merged = dealt.parts[split], written[name]
        linked = set(merged.pairs["pair_id"].to_pylist()) - set(part.pairs["pair_id"].to_pylist())
        counts = {"merged_captions": len(part.texts) - len(merged.texts)}
        body["clean"][name] |= counts | ({"linked_pairs": len(linked)} if linked else {})


def require_positives(folder: Path, pair_set: pairs.PairSet) -> None:
    """Raise UserError where an image or text of the set that becomes `folder` has no true item to find.

    What stands in pairs with label 0 alone is there to be told apart from others; it is no query.
    """
    true = pairs.select_true_pairs(pair_set)
    for table, key in (("images", "image_id"), ("texts", "text_id")):
        frame = getattr(pair_set, table).select([key]).to_pandas()
        frame["positives"] = frame[key].map(true[key].to_pandas().value_counts()).fillna(0)
        denied = frame[key].isin(pair_set.pairs[key].to_pandas()) & (frame["positives"] == 0)
        findings = expectations.run_suite(frame[~denied], suites.build_positives_suite())
        expectations.stop_on_critical(folder / f"{table}.parquet", frame[~denied], findings)


def _write_data_docs(folder: Path, findings: "summary.Findings") -> None:
    """Write Great Expectations' pages; they are for people alone: whatever goes wrong here, the sets stand."""
    by_title = {f"{name}/{table}": some for name, tables in findings.items() for table, some in tables.items()}
    try:
        expectations.write_data_docs(folder, by_title)
    except Exception as error:
        print(f"{folder}: Great Expectations' pages could not be written: {error!r:.200}", file=sys.stderr)
