"""One raw set through its suites: which rows stay, which leave it or are shown as blanks, and for what reason."""

import csv
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.params import Text, Validate
from tuwen.data.formats import pairs
from tuwen.data.quality import expectations, image_stats, pair_stats, suites, text_stats
from tuwen.data.quality.examined_table import ROLES, TASK_SETS, ExaminedTable

if TYPE_CHECKING:
    import pandas as pd

CSV_COLUMNS = ("set", "file", "row", "id", "reason", "severity", "outcome", "counterpart")
GALLERIES = {task: table for task, roles in ROLES.items() for table, role in roles.items() if role == "gallery"}


@dataclass(frozen=True)
class ExaminedSet:
    """One raw set: what came in, and its tables with measured columns, faults and findings."""

    raw: pairs.PairSet
    images: ExaminedTable
    texts: ExaminedTable
    links: ExaminedTable
    drift: list[expectations.Finding]  # of a task set, against the labelled one
    image_rows: pairs.RowNumbers  # of every pair [P]: where its image stands in `images`, -1 where nowhere ...
    text_rows: pairs.RowNumbers  # ... and its caption in `texts`

    @property
    def tables(self) -> dict[str, ExaminedTable]:
        """By the name of their file."""
        return {"images": self.images, "texts": self.texts, "pairs": self.links}

    @property
    def frames(self) -> dict[str, "pd.DataFrame"]:
        """The measured columns, by the name of the file."""
        return {name: table.frame for name, table in self.tables.items()}

    def list_example_rows(self) -> dict[str, list[expectations.ExampleRow]]:
        """Return table -> some rows of each check that is not met; pairs are shown by their captions."""
        captions = self.texts.frame["caption"]

        def find_caption(pair: int) -> str | None:
            row = self.text_rows[pair]
            return None if row < 0 else captions.iloc[row]

        return {
            name: table.list_example_rows(find_caption if table is self.links else None)
            for name, table in self.tables.items()
        }

    def select_clean(self) -> pairs.PairSet:
        """Return the rows that stay; what is shown as a blank has neither bytes nor characters."""
        kept = {name: getattr(self.raw, name).filter(pa.array(t.stays)) for name, t in self.tables.items()}
        for name, table in self.tables.items():
            assert len(kept[name]) == table.count_rows()["clean"], table.place
        if self.images.outcome == "blank":
            kept["images"] = _blank_rows(kept["images"], self.images, ("shard", "offset", "size", "sha256"), None)
        if self.texts.outcome == "blank":
            kept["texts"] = _blank_rows(kept["texts"], self.texts, ("caption",), "")
        return pairs.PairSet(**kept)


def _blank_rows(rows: pa.Table, table: ExaminedTable, columns: tuple[str, ...], value: Any) -> pa.Table:
    blank = pa.array(table.fault.notna())
    for column in columns:
        position, field = rows.schema.get_field_index(column), rows.schema.field(column)
        values = pc.if_else(blank, pa.scalar(value, field.type), rows[column])
        rows = rows.set_column(position, field, values)
    return rows


def examine_set(folder: Path, name: str, params: Validate, text: Text, executor: Executor) -> ExaminedSet:
    """Measure the raw set in `folder` and examine each row for itself. Raises UserError on a critical finding.

    name: "labelled", "t2i", "i2t" or "corpus/<name>"; text: how a model reads a caption.
    """
    pair_set, data = pairs.read_pair_set(folder), folder.parents[1 + name.count("/")]
    # without labelled pairs there is nothing to learn or to measure; a task that has queries needs a gallery too
    needs_items = name == "labelled" or (name in TASK_SETS and len(pair_set.images) + len(pair_set.texts) > 0)
    measured = image_stats.measure_images(data, pair_set.images, params.max_pixels, executor)
    if measured["fault"].notna().any():  # one fault, one reason
        measured["readable"] = measured["readable"].astype(object).where(measured["fault"].isna(), None)
    images = ExaminedTable(folder / "images.parquet", name, "images", measured, needs_items)
    images.examine(suites.build_image_suite(params, needs_items))
    captions = text_stats.measure_captions(pair_set.texts, text.simplify)
    texts = ExaminedTable(folder / "texts.parquet", name, "texts", captions, needs_items)
    texts.examine(suites.build_text_suite(params, text.max_tokens, needs_items))
    needs_pairs = name == "labelled"
    ends = pair_stats.measure_pairs(pair_set)
    links = ExaminedTable(folder / "pairs.parquet", name, "pairs", ends, needs_pairs)
    links.examine(suites.build_pair_suite(needs_pairs))
    examined = ExaminedSet(pair_set, images, texts, links, [], *pair_stats.find_ends(pair_set))
    remove_torn_pairs(examined)
    return examined


def remove_torn_pairs(examined: ExaminedSet, why: str = "") -> None:
    """Remove the pairs whose image or caption was removed.

    Outside a task, remove the images and texts that no pair holds any more, too. why: all that was to be expected.
    """
    links = examined.links
    ends = ((examined.images, examined.image_rows), (examined.texts, examined.text_rows))
    for column, (table, rows) in zip(("picture_clean", "caption_clean"), ends, strict=True):
        links.frame[column] = np.append(table.stays.to_numpy(bool), False)[rows]
    links.examine(suites.build_torn_suite(links.outcome, why))
    if links.outcome == "quarantined":
        stays = links.stays.to_numpy(bool)
        for table, rows in ends:
            table.frame["pairs"] = np.bincount(rows[stays], minlength=len(table.frame))
            table.examine(suites.build_paired_suite(why))


def write_quarantine(clean: Path, tables: Iterable[ExaminedTable]) -> pa.Table:
    """Write what `list_faults` returns of all tables as `clean/quarantine.parquet` and `.csv`; return it."""
    faults = pa.concat_tables([table.list_faults() for table in tables])
    pairs.write_table(clean / "quarantine.parquet", faults)
    with open(clean / "quarantine.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        writer.writerows(zip(*(faults[name].to_pylist() for name in CSV_COLUMNS), strict=True))
    return faults
