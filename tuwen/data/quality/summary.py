"""quality.json: row counts and findings of all sets, which DVC shows as metrics. Its writer and its readers.

It imports nothing of its package when it runs: the stage `report` reads quality.json with it, and shall not
depend on the code that examines.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

    from tuwen.data.formats.pairs import PairSet
    from tuwen.data.quality.corpus import InPlace
    from tuwen.data.quality.expectations import ExampleRow, Finding
    from tuwen.data.quality.quarantine import ExaminedSet

    Frames = Mapping[str, Mapping[str, pd.DataFrame]]  # set -> table -> measured columns
    Findings = Mapping[str, Mapping[str, list[Finding]]]  # set -> table, or "drift" -> findings
    Examples = Mapping[tuple[str, str], list[ExampleRow]]  # (set, table) -> rows that do not meet a check

Summary = Mapping[str, Any]  # the content of quality.json

TABLE_NAMES = ("images", "texts", "pairs")
SEVERITIES = ("critical", "warning", "info")  # the severest first
# these keys have readers of their own; others are shown as they are
TABULATED_KEYS = ("raw", "clean", "groups", "checks", "files")
FATES = ("clean", "quarantined", "left_out", "merged")  # what rows in are the sum of
REASONS_TOLD = 3  # on a terminal
IN_VALID_OR_TEST = "in_valid_or_test"  # the reason for which a corpus image left


class RowCounts(NamedTuple):
    """What became of one table's rows: rows = clean + quarantined + left_out + merged; blank ones are clean."""

    set: str
    table: str
    rows: int
    clean: int
    quarantined: int
    left_out: int
    merged: int  # into a row of the same letters
    blank: int
    faults: Mapping[str, int]  # reason -> rows

    @property
    def adds_up(self) -> bool:
        """Whether no row was lost."""
        return self.rows == self.clean + self.quarantined + self.left_out + self.merged


class FindingRow(NamedTuple):
    """What one expectation found, as far as quality.json has it."""

    set: str
    table: str
    expectation: str
    severity: str
    rows: int  # that fail
    success: bool
    why: str = ""  # it was to be expected


def make_summary(
    examined: "Mapping[str, ExaminedSet]",
    in_place: "Mapping[str, InPlace]",
    clean_sets: "Mapping[str, PairSet]",
    further: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of quality.json.

    examined: raw set -> its tables; in_place: corpus source -> its shards that stay where they are; clean_sets: as
    they were written; further: what is copied as it is (groups, leaks, drift, files, corpus).
    """
    return {
        "raw": {name: _count_rows(one) for name, one in examined.items()},
        "clean": {
            name: {table: len(getattr(pair_set, table)) for table in TABLE_NAMES}
            for name, pair_set in clean_sets.items()
        },
        **further,
        "checks": {
            name: {table: merge_findings(findings) for table, findings in tables.items()}
            for name, tables in group_findings(examined, in_place).items()
        },
    }


def _count_rows(examined: "ExaminedSet") -> dict[str, Any]:
    counts: dict[str, Any] = {name: table.count_rows() for name, table in examined.tables.items()}
    formats = examined.images.frame["format"].value_counts().sort_index()
    counts["formats"] = {str(name): int(count) for name, count in formats.items()}
    counts["side_words"] = int(examined.texts.frame["side_word"].sum())
    return counts


def group_findings(
    examined: "Mapping[str, ExaminedSet]", in_place: "Mapping[str, InPlace]"
) -> "dict[str, dict[str, list[Finding]]]":
    """Return set -> table -> findings, those about measured shards among them; no table without a finding."""
    grouped = {
        name: {table: one.findings for table, one in tables.tables.items()} | {"drift": tables.drift}
        for name, tables in examined.items()
    }
    for name, shards in in_place.items():
        for table in (shards.images, shards.texts):
            grouped[f"corpus/{name}"][table.name] = table.findings
    return {
        name: {table: findings for table, findings in tables.items() if findings}
        for name, tables in grouped.items()
    }


def merge_findings(findings: "Iterable[Finding]") -> dict[str, dict[str, Any]]:
    """Return name -> severity, success, unexpected, and why where it was to be expected.

    The findings of a suite that ran twice count together, by the severest that is not met, if any is not.
    """
    by_name: dict[str, list[Finding]] = {}
    for finding in findings:
        by_name.setdefault(finding.name, []).append(finding)
    merged = {}
    for name, same in by_name.items():
        failed = [one for one in same if not one.success]
        worst = min(failed or same, key=lambda one: SEVERITIES.index(one.severity))
        unexpected = sum(one.unexpected for one in same)
        merged[name] = {"severity": worst.severity, "success": not failed, "unexpected": unexpected}
        merged[name] |= {"why": worst.why} if failed and worst.why else {}
    return merged


def collect_example_rows(
    examined: "Mapping[str, ExaminedSet]", in_place: "Mapping[str, InPlace]"
) -> "dict[tuple[str, str], list[ExampleRow]]":
    """Return (set, table) -> rows that do not meet a check; no table without one."""
    found = {
        (name, table): rows for name, one in examined.items() for table, rows in one.list_example_rows().items()
    }
    for name, shards in in_place.items():
        for measured in (shards.images, shards.texts):
            found[f"corpus/{name}", measured.name] = measured.list_example_rows()
    return {key: rows for key, rows in found.items() if rows}


def collect_frames(
    examined: "Mapping[str, ExaminedSet]", in_place: "Mapping[str, InPlace]"
) -> "dict[str, dict[str, pd.DataFrame]]":
    """Return set -> table -> measured columns; those of the measured shards where a source's stay elsewhere."""
    frames = {name: one.frames for name, one in examined.items()}
    for name, shards in in_place.items():
        frames[f"corpus/{name}"] |= {table.name: table.frame for table in (shards.images, shards.texts)}
    return frames


def list_row_counts(summary: Summary) -> list[RowCounts]:
    """Return one entry per set and table that has rows."""
    return [
        RowCounts(
            set=name,
            table=table,
            rows=counts["in"],
            clean=counts["clean"],
            quarantined=counts["quarantined"],
            left_out=counts.get("left_out", 0),
            merged=counts.get("merged", 0),
            blank=counts.get("blank", 0),
            faults=counts["faults"],
        )
        for name, tables in summary["raw"].items()
        for table, counts in tables.items()
        if table in TABLE_NAMES and counts["in"]
    ]


def format_counts(summary: Summary, folder: Path) -> str:
    """Return what became of the rows of each set, and where `folder`, data/clean, shows it: for a terminal."""
    lines = []
    for name, group in groupby(list_row_counts(summary), key=lambda counts: counts.set):
        tables = list(group)
        fates = {fate: sum(getattr(one, fate) for one in tables) for fate in ("rows", *FATES)}
        told = [
            f"{number:,} {fate.replace('_', ' ')}" for fate, number in fates.items() if number and fate != "rows"
        ]
        faults = sum((Counter(one.faults) for one in tables), Counter[str]()).most_common(REASONS_TOLD)
        worst = f"; most of all {', '.join(f'{reason} {rows:,}' for reason, rows in faults)}" if faults else ""
        came = ", ".join(f"{one.rows:,} {'pictures' if one.table == 'images' else one.table}" for one in tables)
        lines.append(f"{name}: {came}: {fates['rows']:,} rows in = {' + '.join(told)}{worst}")
    failed = [row for row in list_findings(summary) if not row.success and row.severity != "info"]
    checks = ", ".join(dict.fromkeys(row.expectation for row in failed[:REASONS_TOLD]))
    more = f"checks not met: {len(failed)} ({checks}{', …' * (len(failed) > REASONS_TOLD)}); " if failed else ""
    page = folder.absolute() / "quality.html"
    return "\n".join([*lines, f"{more}{page} shows all, quarantine.csv beside it lists rows"])


def list_findings(summary: Summary) -> list[FindingRow]:
    """Return one row per expectation of every table, the severest first."""
    rows = [
        FindingRow(name, table, check, one["severity"], one["unexpected"], one["success"], one.get("why", ""))
        for name, tables in summary["checks"].items()
        for table, entries in tables.items()
        for check, one in entries.items()
    ]
    return sorted(rows, key=lambda row: SEVERITIES.index(row.severity))


def list_sizes(summary: Summary) -> list[tuple[str, int, int, int]]:
    """Return (clean set, images, texts, pairs) of every clean set."""
    return [(name, *(size[table] for table in TABLE_NAMES)) for name, size in summary["clean"].items()]


def list_text_files(summary: Summary) -> list[tuple[str, str, str, str, int, int, str]]:
    """Return (set, file, encoding, quotes, lines, records, notes) of every text file that was read."""
    return [
        (name, one["file"], one["encoding"], one["quotes"], one["lines"], one["records"], "; ".join(one["notes"]))
        for name, files in summary.get("files", {}).items()
        for one in files
    ]


def list_further(summary: Summary) -> dict[str, list[tuple[str, Any]]]:
    """Return title -> rows (name, value) for the keys that have no reader of their own."""
    return {
        key: flatten_values(value if isinstance(value, Mapping) else {key: value})
        for key, value in summary.items()
        if key not in TABULATED_KEYS
    }


def flatten_values(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested values as rows (name, value): the names of all levels joined, blanks for underscores."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        full = f"{prefix} {name}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            rows += flatten_values(value, full)
        elif isinstance(value, list):
            rows.append((full, ", ".join(map(str, value)) or "none"))
        else:
            rows.append((full, value))
    return rows


def count_in_valid_or_test(summary: Summary) -> tuple[int, int]:
    """Count the corpus images that are in valid or test too: (taken out, in measured shards elsewhere)."""
    images = (counts for counts in list_row_counts(summary) if counts.table == "images")
    taken_out = sum(counts.faults.get(IN_VALID_OR_TEST, 0) for counts in images)
    return taken_out, sum(source[IN_VALID_OR_TEST] for source in summary["corpus"].values())
