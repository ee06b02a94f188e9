"""zero_shot.json: how well a model classifies the test images by names alone. Its writer and its reader."""

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator

from tuwen.data.formats.checked_json import CheckedJson
from tuwen.data.formats.json_file import write_json
from tuwen.evaluation.metric import Estimate

ZeroShotReport = dict[str, Any]  # what the file holds
SHARE_COLUMNS = len("100.0% [100.0%, 100.0%]")


class Top(CheckedJson):
    """Shares of the images whose class is the first, and among the first five, with their 95 % intervals."""

    top_1: float
    top_1_low: float
    top_1_high: float
    top_5: float
    top_5_low: float
    top_5_high: float

    def list_estimates(self) -> list[Estimate]:
        """Return top-1 and top-5 in percent."""
        return [
            Estimate(100 * self.top_1, 100 * self.top_1_low, 100 * self.top_1_high),
            Estimate(100 * self.top_5, 100 * self.top_5_low, 100 * self.top_5_high),
        ]


class OfClass(CheckedJson):
    """One class: its images and the share of them that is recognised."""

    name: str
    pictures: int
    top_1: float
    top_1_low: float
    top_1_high: float

    @model_validator(mode="before")
    @classmethod
    def _rename_class(cls, body: Any) -> Any:
        return {**body, "name": body.get("class")} if isinstance(body, dict) else body  # `class` is a keyword


class ZeroShot(CheckedJson):
    """The file: the test images classified by the names of their categories; without any, all is empty."""

    classes: list[str]
    pictures: int
    one_prompt: Top
    ensemble: Top
    per_class: list[OfClass]
    confusion: list[list[int]]  # true class x predicted class

    @model_validator(mode="after")
    def _require_one_row_and_column_for_each_class(self) -> "ZeroShot":
        number = len(self.classes)
        if len(self.confusion) != number or any(len(row) != number for row in self.confusion):
            raise ValueError(f"confusion must have {number} rows of {number} counts, one for each class")
        if sorted(one.name for one in self.per_class) != sorted(self.classes):
            raise ValueError("per_class must name each of the classes once")
        return self

    @property
    def largest_share(self) -> float:
        """Share of the images that belong to the largest class: what naming it always would score."""
        return max((one.pictures for one in self.per_class), default=0) / max(1, self.pictures)


def make_empty_report() -> ZeroShotReport:
    """Return the report of a set without categories."""
    none = dict.fromkeys(Top.model_fields, 0.0)
    return {
        "classes": [],
        "pictures": 0,
        "one_prompt": none,
        "ensemble": none,
        "per_class": [],
        "confusion": [],
    }


def format_report(report: ZeroShotReport) -> str:
    """Format the report for a terminal: each class, then all by the ensemble and by one prompt, and by chance."""
    pictures = f"{report['pictures']:,}"
    rows = [("class", "pictures", " top-1", " top-5")]
    rows += [
        (line["class"], f"{line['pictures']:,}", _format_share(line, "top_1"), "") for line in report["per_class"]
    ]
    for name, key in (("all, by the ensemble", "ensemble"), ("all, by one prompt", "one_prompt")):
        rows.append((name, pictures, _format_share(report[key], "top_1"), _format_share(report[key], "top_5")))
    classes, largest = len(report["classes"]), max((line["pictures"] for line in report["per_class"]), default=0)
    by_chance, among_five = (f"{min(1, k / max(1, classes)):6.1%}" for k in (1, 5))
    rows.append(("all, by chance", pictures, by_chance, among_five))
    rows.append(("all, largest class", pictures, f"{largest / max(1, report['pictures']):6.1%}", ""))
    longest = max(_count_columns(row[0]) for row in rows)
    return "\n".join(
        f"{name}{' ' * (longest - _count_columns(name))}  {count:>8}  {top_1:{SHARE_COLUMNS}}  {top_5}".rstrip()
        for name, count, top_1, top_5 in rows
    )


def _format_share(shares: Mapping[str, float], name: str) -> str:
    low, high = (f"{shares[f'{name}{end}']:.1%}" for end in ("_low", "_high"))
    return f"{shares[name]:6.1%} [{low}, {high}]"


def write_report(out: Path, report: ZeroShotReport) -> None:
    """Write the report as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, report)


def _count_columns(text: str) -> int:
    """Count columns of a terminal, where a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
