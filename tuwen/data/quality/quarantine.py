"""One raw set through the checks: which rows stay, which leave it or are shown as blanks, and for what reason."""

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.params import Validate
from tuwen.data.formats import pairs
from tuwen.data.quality import expectations, image_stats, suites

if TYPE_CHECKING:
    import pandas as pd

TASKS = ("t2i", "i2t")  # their rows are the user's questions: measured, never quarantined
SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("item", pa.string()),  # image, text, pair
        ("id", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("severity", pa.string()),
        ("outcome", pa.string()),
    ]
)
CSV_COLUMNS = ("set", "file", "row", "id", "reason", "severity", "outcome")
UNSEEN = (*pairs.FAULTS, "unreadable", "too_large")
TORN = ("picture_missing", "caption_missing", "picture_left_out", "caption_left_out")
# role -> what becomes of a row with a fault, and with which faults; with any other it stays and is only counted
OUTCOMES = {
    "gallery": ("left_out", {*UNSEEN, "too_narrow", "too_low", "empty", *TORN}),
    "query": ("blank", {*UNSEEN, "empty"}),
}
ROLES = {"t2i": {"images": "gallery", "texts": "query"}, "i2t": {"images": "query", "texts": "gallery"}}

GALLERIES = {task: table for task, roles in ROLES.items() for table, role in roles.items() if role == "gallery"}


class Table:
    """One table under judgement: its measured columns, the first fault of each row, every verdict."""

    def __init__(self, place: Path, set_name: str, name: str, frame: "pd.DataFrame", needs_rows: bool) -> None:
        """Where it stands, the set and the table (images, texts, pairs); needs_rows: to be empty is a fault."""
        import pandas as pd

        self.place, self.set, self.name, self.frame, self.needs_rows = place, set_name, name, frame, needs_rows
        role = ROLES.get(set_name, {}).get(name, "gallery") if set_name in TASKS else "source"
        self._reasons: set[str] | None
        self.outcome, self._reasons = OUTCOMES.get(role, ("quarantined", None))  # None: with any fault
        self.fault = pd.Series(None, index=frame.index, dtype=object)
        self.verdicts: list[expectations.Verdict] = []

    @property
    def stays(self) -> "pd.Series[bool]":
        """Whether each row stays in its set, as it is or as a blank."""
        return self.fault.isna() | (self.outcome == "blank")

    @property
    def clean(self) -> "pd.DataFrame":
        """The rows that stay."""
        stays = self.stays
        return self.frame if stays.all() else self.frame[stays]

    @property
    def reasons(self) -> dict[str, int]:
        """reason -> rows that have it as their first fault, by name."""
        return {str(name): int(count) for name, count in self.fault.value_counts().sort_index().items()}

    def judge(self, suite: list[Any]) -> bool:
        """Judge the rows that stay; whether any left. Raises UserError on a critical fault."""
        if not (len(self.frame) or self.needs_rows):
            return False
        stays, names = self.stays, [self.frame.columns[0], *expectations.columns(suite)]
        frame = self.frame[list(dict.fromkeys(names))]
        frame = frame if stays.all() else frame[stays]
        verdicts = expectations.run(frame, suite)
        expectations.stop_on_critical(self.place, frame, verdicts)
        for verdict in verdicts:
            if verdict.row_fault and (self._reasons is None or verdict.name in self._reasons):
                fresh = self.fault[verdict.rows].isna()
                self.fault[fresh[fresh].index] = verdict.name
        self.verdicts += verdicts
        return not self.stays.equals(stays)

    def judge_outcome(self, params: Validate) -> None:
        """Judge the share of rows that leave for their own faults. Raises UserError when it is too large."""
        import pandas as pd

        outcome = pd.DataFrame({"quarantined": self.fault.notna().astype(float)})
        if self.outcome == "quarantined" and len(outcome):
            reasons = ", ".join(f"{name} {count}" for name, count in self.reasons.items())
            verdicts = expectations.run(outcome, suites.outcome_suite(params, reasons))
            expectations.stop_on_critical(self.place, outcome, verdicts)
            self.verdicts += verdicts

    def counts(self) -> dict[str, Any]:
        """What became of the rows: in = clean + quarantined + left_out; blanks are among the clean."""
        found = {"in": len(self.frame), "clean": int(self.stays.sum())}
        found |= {"quarantined": 0, "left_out": 0, "blank": 0} | {self.outcome: int(self.fault.notna().sum())}
        assert found["in"] == found["clean"] + found["quarantined"] + found["left_out"], self.place
        return found | {"faults": self.reasons}

    def listed(self) -> pa.Table:
        """The rows with a fault, as rows of `quarantine.parquet`."""
        bad = self.fault.dropna()
        rows = self.frame.loc[bad.index]
        columns = {
            "set": [self.set] * len(bad),
            "item": [self.name.removesuffix("s")] * len(bad),
            "id": rows.iloc[:, 0].tolist(),
            "file": rows["file"].astype(object).where(rows["file"].notna(), None).tolist(),
            "row": pa.array(rows["row"].to_numpy(float, na_value=float("nan")), from_pandas=True).cast(pa.int64()),
            "reason": bad.tolist(),
            "severity": ["warning"] * len(bad),
            "outcome": [self.outcome] * len(bad),
        }
        return pa.table(columns, SCHEMA)


@dataclass(frozen=True)
class Judged:
    """One raw set after judgement: what came in, and its tables with measures, faults and verdicts."""

    raw: pairs.PairSet
    images: Table
    texts: Table
    links: Table
    drift: list[expectations.Verdict]  # of a task set, against the labelled one
    image_rows: pairs.RowNumbers  # of every pair [P]: where its picture stands in `images`, -1 where nowhere ...
    text_rows: pairs.RowNumbers  # ... and its caption in `texts`

    @property
    def tables(self) -> dict[str, Table]:
        """By the name of their file."""
        return {"images": self.images, "texts": self.texts, "pairs": self.links}

    @property
    def frames(self) -> dict[str, "pd.DataFrame"]:
        """The measured columns, by the name of the file."""
        return {name: table.frame for name, table in self.tables.items()}

    def clean(self) -> pairs.PairSet:
        """The rows that stay; what is shown as a blank has neither bytes nor characters."""
        kept = {name: getattr(self.raw, name).filter(pa.array(t.stays)) for name, t in self.tables.items()}
        for name, table in self.tables.items():
            assert len(kept[name]) == table.counts()["clean"], table.place
        if self.images.outcome == "blank":
            kept["images"] = _blanked(kept["images"], self.images, ("shard", "offset", "size", "sha256"), None)
        if self.texts.outcome == "blank":
            kept["texts"] = _blanked(kept["texts"], self.texts, ("caption",), "")
        return pairs.PairSet(**kept)


def judge(folder: Path, name: str, params: Validate, max_tokens: int, executor: Executor) -> Judged:
    """Measure and judge the raw set in `folder`, each row for itself. Raises UserError on a critical fault.

    name: "labelled", "t2i", "i2t" or "corpus/<name>"; max_tokens: what a model reads of a caption.
    """
    pair_set, data = pairs.read_pair_set(folder), folder.parents[1 + name.count("/")]
    # the labelled pairs are what everything is about; a task asks with one table in the other
    needs_items = name == "labelled" or (name in TASKS and len(pair_set.images) + len(pair_set.texts) > 0)
    pictures = image_stats.measure_images(data, pair_set.images, params.max_pixels, executor)
    if pictures["fault"].notna().any():  # one fault, one reason
        pictures["readable"] = pictures["readable"].astype(object).where(pictures["fault"].isna(), None)
    images = Table(folder / "images.parquet", name, "images", pictures, needs_items)
    images.judge(suites.image_suite(params, needs_items))
    texts = Table(
        folder / "texts.parquet", name, "texts", image_stats.measure_captions(pair_set.texts), needs_items
    )
    texts.judge(suites.text_suite(params, max_tokens, needs_items))
    links = Table(folder / "pairs.parquet", name, "pairs", image_stats.measure_pairs(pair_set), name == "labelled")
    links.judge(suites.pair_suite(name == "labelled"))
    found = Judged(pair_set, images, texts, links, [], *find_ends(pair_set))
    settle(found)
    return found


def find_ends(pair_set: pairs.PairSet) -> tuple[pairs.RowNumbers, pairs.RowNumbers]:
    """(row in images, row in texts) of every pair [P]; -1 where the id stands nowhere. Ids must not repeat."""
    ends = [
        pc.fill_null(pc.index_in(pair_set.pairs[key], value_set=table[key]), -1).to_numpy().astype(np.int64)
        for key, table in (("image_id", pair_set.images), ("text_id", pair_set.texts))
    ]
    return ends[0], ends[1]


def settle(found: Judged) -> None:
    """Pairs whose picture or caption left go too, and then, but in a task, what no pair holds any more."""
    links, items = found.links, ((found.images, found.image_rows), (found.texts, found.text_rows))
    for column, (table, rows) in zip(("picture_clean", "caption_clean"), items, strict=True):
        links.frame[column] = np.append(table.stays.to_numpy(bool), False)[rows]
    links.judge(suites.torn_suite(links.outcome))
    if links.outcome == "quarantined":
        stays = links.stays.to_numpy(bool)
        for table, rows in items:
            table.frame["pairs"] = np.bincount(rows[stays], minlength=len(table.frame))
            table.judge(suites.paired_suite())


def _blanked(rows: pa.Table, table: Table, columns: tuple[str, ...], value: Any) -> pa.Table:
    blank = pa.array(table.fault.notna())
    for column in columns:
        place, field = rows.schema.get_field_index(column), rows.schema.field(column)
        new = pc.if_else(blank, pa.scalar(value, field.type), rows[column])
        rows = rows.set_column(place, field, new)
    return rows
