"""One table of a raw set through its suites: the first fault of each row, and what becomes of it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tuwen.core.params import Validate
from tuwen.data.formats import pairs
from tuwen.data.quality import expectations, suites
from tuwen.data.quality.duplicates import counterparts

if TYPE_CHECKING:
    import pandas as pd

TASK_SETS = ("t2i", "i2t")  # their rows are the user's questions: measured, never quarantined
QUARANTINE_SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("item", pa.string()),  # image, text, pair
        ("id", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("severity", pa.string()),
        ("outcome", pa.string()),  # quarantined, left_out, blank, merged, stays
        ("counterpart", pa.string()),  # the row that this one repeats, leaks into or is near to; null: none
    ]
)
UNSEEN = (*pairs.FAULTS, "unreadable", "too_large")
TORN = ("picture_missing", "caption_missing", "picture_left_out", "caption_left_out")
# role -> what becomes of a row with a fault, and with which faults; with any other it stays and is only counted
OUTCOMES = {
    "gallery": ("left_out", {*UNSEEN, "too_narrow", "too_low", "empty", *TORN}),
    "query": ("blank", {*UNSEEN, "empty"}),
}
ROLES = {"t2i": {"images": "gallery", "texts": "query"}, "i2t": {"images": "query", "texts": "gallery"}}


class ExaminedTable:
    """One table of a raw set: its measured columns, the first fault of each row, every finding."""

    def __init__(self, place: Path, set_name: str, name: str, frame: "pd.DataFrame", needs_rows: bool) -> None:
        """place: the file that messages name; name: images, texts or pairs; needs_rows: to be empty is a fault."""
        import pandas as pd

        self.place, self.set, self.name, self.frame, self.needs_rows = place, set_name, name, frame, needs_rows
        role = ROLES.get(set_name, {}).get(name, "gallery") if set_name in TASK_SETS else "source"
        self._reasons: set[str] | None
        self.outcome, self._reasons = OUTCOMES.get(role, ("quarantined", None))  # None: with any fault
        self.fault = pd.Series(None, index=frame.index, dtype=object)
        self._expected: set[Any] = set()  # index labels of rows whose fault was to be expected
        self.findings: list[expectations.Finding] = []
        self.counterparts: dict[Any, str] = {}  # index label of a row with a fault -> the row that it is about
        self._merged = 0  # rows that equal ones took in
        self._noted: list[pa.Table] = []

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

    def examine(self, suite: list[Any]) -> bool:
        """Run a suite over the rows that stay; return whether any left. Raises UserError on a critical finding."""
        if not (len(self.frame) or self.needs_rows):
            return False
        stays, names = self.stays, [self.frame.columns[0], *expectations.list_columns(suite)]
        frame = self.frame[list(dict.fromkeys(names))]
        frame = frame if stays.all() else frame[stays]
        findings = expectations.run_suite(frame, suite)
        expectations.stop_on_critical(self.place, frame, findings)
        for finding in findings:
            if finding.row_fault and (self._reasons is None or finding.name in self._reasons):
                fresh = self.fault[finding.rows].isna()
                self.fault[fresh[fresh].index] = finding.name
                self._expected.update(fresh[fresh].index if finding.why else ())
        self.findings += findings
        return not self.stays.equals(stays)

    def examine_outcome(self, params: Validate) -> None:
        """Examine the share of rows that leave for their own faults. Raises UserError when it is too large."""
        import pandas as pd

        outcome = pd.DataFrame({"quarantined": self.fault.notna().astype(float)})
        if self.outcome == "quarantined" and len(outcome):
            reasons = ", ".join(f"{name} {count}" for name, count in self.reasons.items())
            findings = expectations.run_suite(outcome, suites.build_outcome_suite(params, reasons))
            expectations.stop_on_critical(self.place, outcome, findings)
            self.findings += findings

    def count_rows(self) -> dict[str, Any]:
        """Return what became of the rows: in = clean + quarantined + left_out + merged; blanks are clean."""
        counts = {"in": len(self.frame), "clean": int(self.stays.sum()) - self._merged}
        counts |= {"quarantined": 0, "left_out": 0, "blank": 0} | {self.outcome: int(self.fault.notna().sum())}
        counts["merged"] = self._merged
        gone = counts["quarantined"] + counts["left_out"] + counts["merged"]
        assert counts["in"] == counts["clean"] + gone, self.place
        return counts | {"faults": self.reasons}

    def list_example_rows(
        self, find_caption: Callable[[int], str | None] | None = None
    ) -> list[expectations.ExampleRow]:
        """Return some rows of each check that is not met, as `expectations.list_example_rows`."""
        return list(expectations.list_example_rows(self.frame, self.findings, find_caption))

    def describe_rows(self, labels: Sequence[Any]) -> list[str]:
        """Return the rows of these index labels in words."""
        return counterparts.describe_rows(self.set, self.frame.loc[list(labels)])

    def note_merged(self, into: Mapping[Any, str]) -> None:
        """List rows that equal ones took in; into: index label -> those, in words."""
        self._merged += len(into)
        self._note("equal_to_another", "info", "merged", into)

    def note_staying(self, reason: str, others: Mapping[Any, str]) -> None:
        """List rows that stay under a warning; others: index label -> the row that it is about, in words."""
        self._note(reason, "warning", "stays", others)

    def _note(self, reason: str, severity: str, outcome: str, others: Mapping[Any, str]) -> None:
        number = len(others)
        self._noted.append(self._list_rows(list(others), [reason] * number, [severity] * number, outcome, others))

    def list_faults(self) -> pa.Table:
        """Return the rows with a fault, merged ones and noted ones, as rows of `quarantine.parquet`."""
        faults = self.fault.dropna()
        labels = faults.index.tolist()
        severities = ["info" if label in self._expected else "warning" for label in labels]
        left = self._list_rows(labels, faults.tolist(), severities, self.outcome, self.counterparts)
        return pa.concat_tables([left, *self._noted])

    def _list_rows(
        self, labels: list[Any], reasons: list[str], severities: list[str], outcome: str, others: Mapping[Any, str]
    ) -> pa.Table:
        rows = self.frame.loc[labels]
        columns = {
            "set": [self.set] * len(rows),
            "item": [self.name.removesuffix("s")] * len(rows),
            "id": rows.iloc[:, 0].tolist(),
            "file": rows["file"].astype(object).where(rows["file"].notna(), None).tolist(),
            "row": pa.array(rows["row"].to_numpy(float, na_value=float("nan")), from_pandas=True).cast(pa.int64()),
            "reason": reasons,
            "severity": severities,
            "outcome": [outcome] * len(rows),
            "counterpart": [others.get(label) for label in labels],
        }
        return pa.table(columns, QUARANTINE_SCHEMA)
