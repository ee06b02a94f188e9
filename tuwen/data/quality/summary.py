"""quality.json: counts and verdicts of all sets, what DVC shows as metrics."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tuwen.data.formats import pairs
from tuwen.data.quality import expectations
from tuwen.data.quality.corpus import InPlace
from tuwen.data.quality.quarantine import Judged

if TYPE_CHECKING:
    import pandas as pd

    Frames = dict[str, dict[str, pd.DataFrame]]


def body(
    judged: Mapping[str, Judged],
    in_place: Mapping[str, InPlace],
    made: Mapping[str, pairs.PairSet],
    further: Mapping[str, Any],
) -> dict[str, Any]:
    """What becomes quality.json.

    judged: raw set -> its tables; in_place: corpus source -> its shards that stay where they are; made: the clean
    sets; further: groups, leaks, drift, corpus, as they stand.
    """
    return {
        "raw": {name: _counts(found) for name, found in judged.items()},
        "clean": {
            name: {"images": len(s.images), "texts": len(s.texts), "pairs": len(s.pairs)}
            for name, s in made.items()
        },
        **further,
        "checks": {name: _verdicts(found) for name, found in verdicts(judged, in_place).items()},
    }


def verdicts(
    judged: Mapping[str, Judged], in_place: Mapping[str, InPlace]
) -> dict[str, dict[str, list[expectations.Verdict]]]:
    """set -> table -> verdicts, those about measured shards among them."""
    found = {
        name: {table: one.verdicts for table, one in tables.tables.items()} | {"drift": tables.drift}
        for name, tables in judged.items()
    }
    for name, shards in in_place.items():
        for table in (shards.images, shards.texts):
            found[f"corpus/{name}"][table.name] = table.verdicts
    return {name: {table: some for table, some in tables.items() if some} for name, tables in found.items()}


def frames(judged: Mapping[str, Judged], in_place: Mapping[str, InPlace]) -> "Frames":
    """set -> table -> measured columns; those of measured shards where these stay elsewhere."""
    found = {name: tables.frames for name, tables in judged.items()}
    for name, shards in in_place.items():
        found[f"corpus/{name}"] |= {table.name: table.frame for table in (shards.images, shards.texts)}
    return found


def _counts(found: Judged) -> dict[str, Any]:
    counts: dict[str, Any] = {name: table.counts() for name, table in found.tables.items()}
    formats = found.images.frame["format"].value_counts().sort_index()
    counts["formats"] = {str(name): int(count) for name, count in formats.items()}
    counts["side_words"] = int(found.texts.frame["side_word"].sum())
    return counts


def _verdicts(tables: Mapping[str, list[expectations.Verdict]]) -> dict[str, Any]:
    return {name: expectations.merged(found) for name, found in tables.items()}
