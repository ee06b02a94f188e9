"""The corpus: its sources as one set, without what valid and test hold; shards that stay elsewhere, sampled."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.params import Validate
from tuwen.core.progress import follow
from tuwen.data.formats import pairs, tar_stream
from tuwen.data.quality import image_stats, near_duplicates, quarantine, suites

if TYPE_CHECKING:
    import pandas as pd

PREFIXED = ("image_id", "positive_id", "text_id", "pair_id")


def join(found: Mapping[str, quarantine.Judged]) -> pairs.PairSet:
    """The clean sets as one, in the order of their names; ids start with `<name>/`, `source` is the name."""
    sets = [_named(name, found[name].clean()) for name in sorted(found)]
    return pairs.PairSet(
        *(
            pa.concat_tables([schema.empty_table(), *(getattr(one, table).cast(schema) for one in sets)])
            for table, schema in (("images", pairs.IMAGES), ("texts", pairs.TEXTS), ("pairs", pairs.PAIRS))
        )
    )


def _named(name: str, pair_set: pairs.PairSet) -> pairs.PairSet:
    tables = []
    for table in (pair_set.images, pair_set.texts, pair_set.pairs):
        for place, column in enumerate(table.schema.names):
            values = table[column]
            if column in PREFIXED:
                values = pc.binary_join_element_wise(name, values, "/")
            elif column == "source":
                values = pa.array([name] * len(table), pa.string())
            table = table.set_column(place, table.schema.field(place), values)
        tables.append(table)
    return pairs.PairSet(*tables)


def leave_out(found: quarantine.Judged, seen: "pd.DataFrame") -> None:
    """Take the pictures that equal, or are near to, one of `seen`, those of valid and test, out of a source."""
    found.images.frame["in_valid_or_test"] = _held(found.images.frame, seen)
    if found.images.judge(suites.overlap_suite()):
        quarantine.settle(found)


def _held(pictures: "pd.DataFrame", seen: "pd.DataFrame") -> "pd.Series[bool]":
    return pictures["measured_sha256"].isin(seen["measured_sha256"]) | near_duplicates.near_any(pictures, seen)


@dataclass(frozen=True)
class InPlace:
    """The shards of one corpus source that stay where they are, and what the doctor found in those it measured.

    Their bad items are skipped and counted when they are read; here they are counted, never listed.
    """

    shards: pa.Table  # pairs.SHARDS, all of them
    measured: int  # shards
    images: quarantine.Table
    texts: quarantine.Table

    def figures(self, seen: "pd.DataFrame") -> dict[str, Any]:
        """How much there is, how much of it was measured, and its faults; seen: as in `leave_out`."""
        return {
            "shards": len(self.shards),
            "pairs": sum(self.shards["pairs"].to_pylist()),
            "measured_shards": self.measured,
            "measured_pictures": len(self.images.frame),
            "measured_captions": len(self.texts.frame),
            "faults": self.images.reasons | self.texts.reasons,
            "in_valid_or_test": int(_held(self.images.frame, seen).sum()),
        }


def judge_in_place(
    raw: Path, names: Sequence[str], params: Validate, max_tokens: int, executor: Executor
) -> dict[str, InPlace]:
    """Measure and judge the listed shards, all or a share, of those sources `raw/<name>` that list any.

    Raises UserError where a shard cannot be read, is not the listed one, or where too many items are bad.
    """
    listed = {name: pairs.read_shards(raw / name) for name in names}
    return {
        name: _judge_shards(raw / name / "shards.parquet", shards, params, max_tokens, executor)
        for name, shards in listed.items()
        if len(shards)
    }


def _judge_shards(place: Path, listed: pa.Table, params: Validate, max_tokens: int, executor: Executor) -> InPlace:
    chosen, name = choose(listed.to_pylist(), params), f"corpus/{place.parent.name}"
    pictures, captions = _measure(chosen, params.max_pixels, executor)
    images = quarantine.Table(place, name, "images", pictures, needs_rows=False)
    images.judge(suites.image_suite(params, needs_rows=False))
    texts = quarantine.Table(place, name, "texts", captions, needs_rows=False)
    texts.judge(suites.text_suite(params, max_tokens, needs_rows=False))
    for table in (images, texts):
        table.judge_outcome(params)
    return InPlace(listed, len(chosen), images, texts)


def shards_of(found: Mapping[str, InPlace]) -> pa.Table:
    """The shards that stay where they are, with the names of their sources (`pairs.SHARDS`)."""
    place = pairs.SHARDS.get_field_index("source")
    named = [
        one.shards.set_column(place, pairs.SHARDS.field(place), pa.array([name] * len(one.shards), pa.string()))
        for name, one in found.items()
    ]
    return pa.concat_tables([pairs.SHARDS.empty_table(), *named])


def choose(listed: Sequence[dict[str, Any]], params: Validate) -> list[dict[str, Any]]:
    """The shards that are measured: all of a source, or of a large one, in the order of their sha256, a share."""
    total = sum(row["pairs"] for row in listed)
    if total <= params.full_doctor_pairs:
        return list(listed)
    ordered = sorted(listed, key=lambda row: row["sha256"])
    before = accumulate((row["pairs"] for row in ordered), initial=0)
    return [row for row, count in zip(ordered, before, strict=False) if count < params.doctor_share * total]


def _measure(
    chosen: list[dict[str, Any]], max_pixels: int, executor: Executor
) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Pictures and captions as doctor.py measures them; ids are the shard's sha256 and a number."""
    import pandas as pd

    done = executor.map(partial(_measure_shard, max_pixels), chosen)
    pictures, captions = [_pictures([])], [pairs.TEXTS.empty_table()]
    for row, (measured, texts) in zip(chosen, follow(done, "measure shards", len(chosen)), strict=True):
        part = _pictures(measured)
        pictures.append(part.assign(image_id=[f"{row['sha256']}/{number}" for number in range(len(part))]))
        captions.append(_captions(row["sha256"], texts))
    images = pd.concat([part for part in pictures if len(part)] or pictures, ignore_index=True)
    return images, image_stats.measure_captions(pa.concat_tables(captions))


def _captions(shard: str, texts: list[str]) -> pa.Table:
    """A shard's captions as rows of `pairs.TEXTS`: as Python objects, five million would take gigabytes."""
    named = {"text_id": [f"{shard}/{number}" for number in range(len(texts))], "caption": texts}
    columns = [named.get(name, [None] * len(texts)) for name in pairs.TEXTS.names]
    return pa.table(columns, schema=pairs.TEXTS)


def _pictures(measured: "list[tuple[str | None, image_stats.ImageStats]]") -> "pd.DataFrame":
    import pandas as pd

    frame = pd.DataFrame([picture for _, picture in measured], columns=list(image_stats.ImageStats._fields))
    faults = pd.Series([fault for fault, _ in measured], frame.index, dtype=object)
    frame.insert(0, "image_id", pd.Series(None, frame.index, dtype=object))
    return frame.assign(sha256=frame["measured_sha256"], fault=faults, file=None, row=None)


def _measure_shard(
    max_pixels: int, row: dict[str, Any]
) -> "tuple[list[tuple[str | None, image_stats.ImageStats]], list[str]]":
    pictures, captions = [], list[str]()
    for sample in tar_stream.read_shard(row):
        found = (
            image_stats.ImageStats()
            if sample.image is None
            else image_stats.measure_image(sample.image, max_pixels)
        )
        pictures.append((sample.fault, found))
        captions += sample.captions or ([] if sample.fault else [""])
    return pictures, captions
