"""The corpus: its sources as one set, without what valid and test hold; shards that stay elsewhere, sampled."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.params import Text, Validate
from tuwen.core.progress import follow
from tuwen.data.formats import pairs
from tuwen.data.formats.foreign_tar.listed_shard import read_shard
from tuwen.data.quality import image_stats, quarantine, suites, text_stats
from tuwen.data.quality.duplicates import counterparts, near_duplicates
from tuwen.data.quality.examined_table import ExaminedTable

if TYPE_CHECKING:
    import pandas as pd

LABELLED_AGAIN = "expected: this source holds the labelled pictures again, and valid and test leave the corpus"
PREFIXED_COLUMNS = ("image_id", "positive_id", "text_id", "pair_id")


def join_sources(sources: Mapping[str, quarantine.ExaminedSet]) -> pairs.PairSet:
    """Return the clean sets as one, by name; ids start with `<name>/`, the column `source` is the name."""
    sets = [_prefix_ids(name, sources[name].select_clean()) for name in sorted(sources)]
    return pairs.PairSet(
        *(
            pa.concat_tables([schema.empty_table(), *(getattr(one, table).cast(schema) for one in sets)])
            for table, schema in (("images", pairs.IMAGES), ("texts", pairs.TEXTS), ("pairs", pairs.PAIRS))
        )
    )


def _prefix_ids(name: str, pair_set: pairs.PairSet) -> pairs.PairSet:
    tables = []
    for table in (pair_set.images, pair_set.texts, pair_set.pairs):
        for position, column in enumerate(table.schema.names):
            values = table[column]
            if column in PREFIXED_COLUMNS:
                values = pc.binary_join_element_wise(name, values, "/")
            elif column == "source":
                values = pa.array([name] * len(table), pa.string())
            table = table.set_column(position, table.schema.field(position), values)
        tables.append(table)
    return pairs.PairSet(*tables)


def remove_held_out(source: quarantine.ExaminedSet, held_out: "pd.DataFrame", labelled: "pd.DataFrame") -> None:
    """Take the images that equal, or are near to, one of `held_out` out of a source.

    held_out: the measured images of valid and test; labelled: all of the labelled set. A source that holds nothing
    but these is expected to lose some: that is info, and no warning.
    """
    images = source.images.frame
    known = images["measured_sha256"].dropna()
    why = LABELLED_AGAIN if len(known) and known.isin(labelled["measured_sha256"]).all() else ""
    images["in_valid_or_test"] = flags = _is_held_out(images, held_out)
    found = counterparts.find_nearest_held_out(images[flags], held_out)
    words = counterparts.describe_rows("labelled", held_out.loc[list(found.values())])
    source.images.counterparts |= dict(zip(found, words, strict=True))
    if source.images.examine(suites.build_overlap_suite(why)):
        quarantine.remove_torn_pairs(source, why)


def list_held_out(held_out: "pd.DataFrame") -> pa.Table:
    """Return what training must know of `held_out` to keep it out of shards that stay where they are."""
    thumbnails = held_out["thumbnail"].astype(object).where(~held_out["blank"].eq(True), None)
    rows = {"sha256": held_out["measured_sha256"].tolist(), "thumbnail": thumbnails.tolist()}
    return pa.table(rows, schema=pairs.HELD_OUT)


def _is_held_out(images: "pd.DataFrame", held_out: "pd.DataFrame") -> "pd.Series[bool]":
    equal = images["measured_sha256"].isin(held_out["measured_sha256"])
    return equal | near_duplicates.find_near_images(images, held_out)


@dataclass(frozen=True)
class InPlace:
    """The shards of one corpus source that stay where they are, and what was measured in some or all of them.

    Their bad items are skipped and counted when they are read; here they are counted, never listed.
    """

    shards: pa.Table  # pairs.SHARDS, all of them
    measured: int  # shards
    images: ExaminedTable
    texts: ExaminedTable
    left_over: Counter[str]  # members of the measured shards that belong to no pair, by extension

    def summarise(self, held_out: "pd.DataFrame") -> dict[str, Any]:
        """Return how much there is, what of it was measured, and its faults; held_out as in `remove_held_out`."""
        return {
            "shards": len(self.shards),
            "pairs": sum(self.shards["pairs"].to_pylist()),
            "measured_shards": self.measured,
            "measured_pictures": len(self.images.frame),
            "measured_captions": len(self.texts.frame),
            "faults": self.images.reasons | self.texts.reasons,
            "members_left_over": dict(sorted(self.left_over.items())),
            "in_valid_or_test": int(_is_held_out(self.images.frame, held_out).sum()),
        }


def examine_in_place(
    raw: Path, names: Sequence[str], params: Validate, text: Text, executor: Executor
) -> dict[str, InPlace]:
    """Measure and examine the listed shards, all or a share, of those sources `raw/<name>` that list any.

    Raises UserError where a shard cannot be read, is not the listed one, or where too many items are bad.
    """
    listed = {name: pairs.read_shards(raw / name) for name in names}
    return {
        name: _examine_shards(raw / name / "shards.parquet", shards, params, text, executor)
        for name, shards in listed.items()
        if len(shards)
    }


def _examine_shards(place: Path, listed: pa.Table, params: Validate, text: Text, executor: Executor) -> InPlace:
    chosen, name = choose_shards(listed.to_pylist(), params), f"corpus/{place.parent.name}"
    measured, captions, left_over = _measure_shards(chosen, params.max_pixels, text.simplify, executor)
    images = ExaminedTable(place, name, "images", measured, needs_rows=False)
    images.examine(suites.build_image_suite(params, needs_rows=False))
    texts = ExaminedTable(place, name, "texts", captions, needs_rows=False)
    texts.examine(suites.build_text_suite(params, text.max_tokens, needs_rows=False))
    for table in (images, texts):
        table.examine_outcome(params)
    return InPlace(listed, len(chosen), images, texts, left_over)


def collect_shards(in_place: Mapping[str, InPlace]) -> pa.Table:
    """Return the shards that stay where they are, with the names of their sources (`pairs.SHARDS`)."""
    position = pairs.SHARDS.get_field_index("source")
    field = pairs.SHARDS.field(position)
    named = [
        source.shards.set_column(position, field, pa.array([name] * len(source.shards), pa.string()))
        for name, source in in_place.items()
    ]
    return pa.concat_tables([pairs.SHARDS.empty_table(), *named])


def choose_shards(listed: Sequence[dict[str, Any]], params: Validate) -> list[dict[str, Any]]:
    """Return the shards to measure: all of a source, or of a large one, in the order of their sha256, a share."""
    total = sum(row["pairs"] for row in listed)
    if total <= params.full_doctor_pairs:
        return list(listed)
    ordered = sorted(listed, key=lambda row: row["sha256"])
    before = accumulate((row["pairs"] for row in ordered), initial=0)
    return [row for row, count in zip(ordered, before, strict=False) if count < params.doctor_share * total]


def _measure_shards(
    chosen: list[dict[str, Any]], max_pixels: int, simplify: bool, executor: Executor
) -> "tuple[pd.DataFrame, pd.DataFrame, Counter[str]]":
    """Return measured images and captions, with the shard's sha256 and a number as ids, and what is left over."""
    import pandas as pd

    results = executor.map(partial(_measure_shard, max_pixels), chosen)
    images, captions, left_over = [_make_image_frame([])], [pairs.TEXTS.empty_table()], Counter[str]()
    pairs_of_all = sum(row["pairs"] for row in chosen)
    followed = follow(results, "measure pairs in shards", pairs_of_all, lambda result: len(result[0]))
    for row, (measured, texts, left) in zip(chosen, followed, strict=True):
        part = _make_image_frame(measured)
        images.append(part.assign(image_id=[f"{row['sha256']}/{number}" for number in range(len(part))]))
        captions.append(_make_text_table(row["sha256"], texts))
        left_over += left
    frame = pd.concat([part for part in images if len(part)] or images, ignore_index=True)
    return frame, text_stats.measure_captions(pa.concat_tables(captions), simplify), left_over


def _make_text_table(shard: str, texts: list[str]) -> pa.Table:
    """Return a shard's captions as rows of `pairs.TEXTS`: as Python objects, five million would take gigabytes."""
    known = {"text_id": [f"{shard}/{number}" for number in range(len(texts))], "caption": texts}
    columns = [known.get(name, [None] * len(texts)) for name in pairs.TEXTS.names]
    return pa.table(columns, schema=pairs.TEXTS)


def _make_image_frame(measured: "list[tuple[str | None, image_stats.ImageStats]]") -> "pd.DataFrame":
    import pandas as pd

    frame = pd.DataFrame([stats for _, stats in measured], columns=list(image_stats.ImageStats._fields))
    faults = pd.Series([fault for fault, _ in measured], frame.index, dtype=object)
    frame.insert(0, "image_id", pd.Series(None, frame.index, dtype=object))
    return frame.assign(sha256=frame["measured_sha256"], fault=faults, file=None, row=None)


def _measure_shard(
    max_pixels: int, row: dict[str, Any]
) -> "tuple[list[tuple[str | None, image_stats.ImageStats]], list[str], Counter[str]]":
    """Return (fault, stats) of every image of a shard, its captions, and what is left over of it.

    A sample without a caption counts as one with an empty caption.
    """
    measured, captions, left_over = [], list[str](), Counter[str]()
    for sample in read_shard(row, left_over):
        stats = (
            image_stats.ImageStats()
            if sample.image is None
            else image_stats.measure_image(sample.image, max_pixels)
        )
        measured.append((sample.fault, stats))
        captions += sample.captions or ([] if sample.fault else [""])
    return measured, captions, left_over
