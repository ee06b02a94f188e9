"""One raw set through the checks: which rows stay, which leave it, and for what reason."""

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tuwen import checks, doctor, pairs
from tuwen.params import Validate

if TYPE_CHECKING:
    import pandas as pd

TASKS = ("t2i", "i2t")  # their rows are the user's questions: measured, never removed
SCHEMA = pa.schema([(name, pa.string()) for name in ("set", "item", "id", "reason", "severity")])


class Table:
    """One table under judgement: its measured columns, the first fault of each row, every verdict."""

    def __init__(self, place: Path, frame: "pd.DataFrame", removes: bool) -> None:
        import pandas as pd

        self.place, self.frame, self.removes = place, frame, removes
        self.fault = pd.Series(None, index=frame.index, dtype=object)
        self.verdicts: list[checks.Verdict] = []

    @property
    def severity(self) -> str:
        """Severity of a row's fault: "warning" takes the row out of its set, "info" leaves it in."""
        return "warning" if self.removes else "info"

    @property
    def clean(self) -> "pd.DataFrame":
        """The rows that stay."""
        return self.frame[self.fault.isna()] if self.removes else self.frame

    @property
    def reasons(self) -> dict[str, int]:
        """reason -> rows that have it as their first fault, by name."""
        return {str(name): int(count) for name, count in self.fault.value_counts().sort_index().items()}

    def judge(self, suite: list[Any]) -> None:
        """Judge the rows that stay. Raises UserError on a critical fault."""
        verdicts = checks.run(self.clean, suite)
        checks.stop_on_critical(self.place, self.clean, verdicts)
        for verdict in verdicts:
            if verdict.row_fault:
                fresh = self.fault[verdict.rows].isna()
                self.fault[fresh[fresh].index] = verdict.name
        self.verdicts += verdicts

    def judge_outcome(self, params: Validate) -> None:
        """Judge the share of rows that leave. Raises UserError when it is too large."""
        import pandas as pd

        outcome = pd.DataFrame({"quarantined": self.fault.notna().astype(float)})
        if self.removes and len(outcome):
            reasons = ", ".join(f"{name} {count}" for name, count in self.reasons.items())
            verdicts = checks.run(outcome, checks.outcome_suite(params, reasons))
            checks.stop_on_critical(self.place, outcome, verdicts)
            self.verdicts += verdicts

    def listed(self) -> pa.Table:
        """The rows with a fault, as rows of `quarantine.parquet`."""
        bad = self.fault.dropna()
        ids = self.frame.loc[bad.index].iloc[:, 0].tolist()
        count = len(ids)
        name, item = self.place.parent.name, self.place.stem.removesuffix("s")
        columns = [[name] * count, [item] * count, ids, bad.tolist(), [self.severity] * count]
        return pa.table(dict(zip(SCHEMA.names, columns, strict=True)), SCHEMA)


@dataclass(frozen=True)
class Judged:
    """One raw set after judgement: the rows that stay, and its tables with measures and verdicts."""

    clean: pairs.PairSet
    tables: dict[str, Table]  # images, texts, pairs


def judge(folder: Path, params: Validate, executor: Executor) -> Judged:
    """Measure and judge the raw set in `folder`, `<data root>/raw/<set>`. Raises UserError on a critical fault."""
    pair_set, removes, labelled = pairs.read(folder), folder.name not in TASKS, folder.name == "labelled"
    # the labelled pairs are what everything is about; a task asks with one table in the other
    needs_items = labelled or (not removes and len(pair_set.images) + len(pair_set.texts) > 0)
    pictures = doctor.measure_pictures(folder.parent.parent, pair_set.images, params.max_pixels, executor)
    images = Table(folder / "images.parquet", pictures, removes)
    images.judge(checks.image_suite(params, images.severity, needs_items))
    texts = Table(folder / "texts.parquet", doctor.measure_captions(pair_set.texts), removes)
    texts.judge(checks.text_suite(params, texts.severity, needs_items))
    rows = doctor.measure_pairs(pair_set)
    for column, key, table in (("picture_clean", "image_id", images), ("caption_clean", "text_id", texts)):
        rows[column] = rows[key].isin(table.clean[key])
    links = Table(folder / "pairs.parquet", rows, removes)
    links.judge(checks.pair_suite(links.severity, labelled))
    if removes:
        _judge_paired(images, texts, links, params)
    tables = {"images": images, "texts": texts, "pairs": links}
    kept = {
        name: getattr(pair_set, name).take(pa.array(table.clean.index, pa.int64()))
        for name, table in tables.items()
    }
    for name, table in tables.items():
        assert len(table.frame) == len(kept[name]) + (len(table.listed()) if removes else 0), table.place
    return Judged(pairs.PairSet(**kept), tables)


def _judge_paired(images: Table, texts: Table, links: Table, params: Validate) -> None:
    """What no clean pair holds leaves too; a caption on many pictures is reported."""
    for table, key in ((images, "image_id"), (texts, "text_id")):
        table.frame["pairs"] = table.frame[key].map(links.clean[key].value_counts()).fillna(0)
        table.judge(checks.paired_suite())
    normalised = links.clean["text_id"].map(texts.frame.set_index("text_id")["normalised"])
    pictures = links.clean["image_id"].groupby(normalised).nunique()
    texts.frame["pictures"] = texts.frame["normalised"].map(pictures).fillna(0)
    texts.judge(checks.spread_suite(params))
