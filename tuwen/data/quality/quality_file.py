"""quality.json as rows of tables: what came in, what became of it, what was found."""

from collections.abc import Mapping
from typing import Any, NamedTuple

TABLES = ("images", "texts", "pairs")
SEVERITIES = ("critical", "warning", "info")
OWN_TABLES = ("raw", "clean", "groups", "checks")  # of the body; all else is shown as it is
FOUND_IN_SPLITS = "in_valid_or_test"  # the reason why a corpus picture left

Body = Mapping[str, Any]


class Counts(NamedTuple):
    """What became of one table's rows: rows = clean + quarantined + left_out; blank ones are among the clean."""

    set: str
    table: str
    rows: int
    clean: int
    quarantined: int
    left_out: int
    blank: int
    faults: Mapping[str, int]

    @property
    def adds_up(self) -> bool:
        """Whether no row was lost."""
        return self.rows == self.clean + self.quarantined + self.left_out


class Verdict(NamedTuple):
    """What one check found."""

    set: str
    table: str
    check: str
    severity: str
    rows: int
    success: bool


def counts(body: Body) -> list[Counts]:
    """One per set and table that has rows."""
    return [
        Counts(
            set=name,
            table=table,
            rows=found["in"],
            clean=found["clean"],
            quarantined=found["quarantined"],
            left_out=found.get("left_out", 0),
            blank=found.get("blank", 0),
            faults=found["faults"],
        )
        for name, tables in body["raw"].items()
        for table, found in tables.items()
        if table in TABLES and found["in"]
    ]


def verdicts(body: Body) -> list[Verdict]:
    """One per check, the severest first."""
    found = [
        Verdict(name, table, check, verdict["severity"], verdict["unexpected"], verdict["success"])
        for name, tables in body["checks"].items()
        for table, checks in tables.items()
        for check, verdict in checks.items()
    ]
    return sorted(found, key=lambda verdict: SEVERITIES.index(verdict.severity))


def sizes(body: Body) -> list[tuple[str, int, int, int]]:
    """(clean set, pictures, texts, pairs)."""
    return [(name, *(size[table] for table in TABLES)) for name, size in body["clean"].items()]


def figures(values: Mapping[str, Any], place: str = "") -> list[tuple[str, Any]]:
    """Nested figures as (name, value): the names of all levels in a row, blanks for underscores."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        full = f"{place} {name}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            rows += figures(value, full)
        elif isinstance(value, list):
            rows.append((full, ", ".join(map(str, value)) or "none"))
        else:
            rows.append((full, value))
    return rows


def further(body: Body) -> dict[str, list[tuple[str, Any]]]:
    """What the body holds beside its own tables: title -> figures."""
    return {
        name: figures({name: value} if not isinstance(value, Mapping) else value)
        for name, value in body.items()
        if name not in OWN_TABLES
    }


def found_in_splits(body: Body) -> tuple[int, int]:
    """Corpus pictures that stand in valid or test too: those taken out; those in measured shards elsewhere."""
    taken_out = sum(count.faults.get(FOUND_IN_SPLITS, 0) for count in counts(body) if count.table == "images")
    return taken_out, sum(source[FOUND_IN_SPLITS] for source in body["corpus"].values())
