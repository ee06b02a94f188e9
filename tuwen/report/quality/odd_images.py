"""The pictures that a person should see: those that left their set, and blank and very long ones that stay."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.parquet as pq

from tuwen.data.formats import shards
from tuwen.data.formats.images import MAX_ASPECT
from tuwen.report.html.page import make_thumbnail

if TYPE_CHECKING:
    import pandas as pd

PICTURES_SHOWN = 48
NAMED = 200  # pictures that cannot be shown and are named instead
COLUMNS = ["set", "id", "file", "row", "reason", "outcome", "readable", "width", "height"]


class Odd(NamedTuple):
    """One such picture."""

    set: str
    id: str
    place: str  # its file and its row there
    reason: str
    outcome: str
    sides: str  # "640 × 480", empty where unknown
    uri: str  # empty where the picture cannot be shown


class Pictures(NamedTuple):
    """All that the page says of them."""

    seen: list[Odd]
    unseen: list[Odd]
    seen_left: int  # that would decode and are not shown
    unseen_left: int  # that would not and are not named


def collect_odd_images(data: Path, pictures: Mapping[str, "pd.DataFrame"], quarantine: "pd.DataFrame") -> Pictures:
    """Show the pictures that decode, as many of every set and reason as of the others; name those that do not.

    data: the data root; pictures: set -> what doctor.py measured; quarantine: the rows that left their set or are
    shown to a model as a blank. What doctor.py did not decode is not decoded here. Raises UserError where a shard
    is missing.
    """
    rows = _list(pictures, quarantine[quarantine["item"] == "image"])
    decodes = rows["readable"].eq(True)
    turn = rows[decodes].groupby(["set", "reason"], sort=False).cumcount()
    chosen = rows.loc[turn.sort_values(kind="stable").index[:PICTURES_SHOWN].sort_values()]
    tried = _show(data, chosen)
    seen, without = [odd for odd in tried if odd.uri], [odd for odd in tried if not odd.uri]
    unseen = [*without, *(_odd(row) for row in records(rows[~decodes].head(NAMED)))][:NAMED]
    return Pictures(
        seen, unseen, int(decodes.sum()) - len(tried), len(rows) - int(decodes.sum()) + len(without) - len(unseen)
    )


def _list(pictures: Mapping[str, "pd.DataFrame"], left: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    parts = [left[~left["set"].isin(list(pictures))]]
    for name, measured in pictures.items():
        here = left[left["set"] == name]
        gone = measured["image_id"].isin(here["id"])
        known = measured[gone].drop_duplicates("image_id").set_index("image_id")
        if len(here):  # pandas cannot join two empty columns of strings
            parts.append(here.join(known[["readable", "width", "height"]], on="id"))
        stay = measured[~gone]
        aspect = pd.to_numeric(stay["aspect"], errors="coerce")
        long = aspect[aspect > MAX_ASPECT].nlargest(PICTURES_SHOWN).index.sort_values()
        kinds = {
            "blank": stay[stay["blank"].eq(True)],
            f"over {MAX_ASPECT:g} : 1, the ends are cut": stay.loc[long],
        }
        for reason, kept in kinds.items():
            named = kept.head(PICTURES_SHOWN).rename(columns={"image_id": "id"})
            parts.append(named.assign(set=name, reason=reason, outcome="stays"))
    return pd.concat([part.reindex(columns=COLUMNS).astype(object) for part in parts], ignore_index=True)


def _show(data: Path, rows: "pd.DataFrame") -> list[Odd]:
    shown = []
    for name, some in rows.groupby("set", sort=False):
        places = _places(data / "raw" / str(name) / "images.parquet", some["id"].tolist())
        for row in records(some):
            found = places.get(row["id"])
            shown.append(_odd(row, make_thumbnail(shards.read_member(data, found)) if found else ""))
    return shown


def _places(path: Path, ids: list[str]) -> dict[str, shards.Place]:
    """Picture -> shard, offset, size, of those that the raw table at `path` has bytes of."""
    columns = ["image_id", "shard", "offset", "size"]
    found = pq.read_table(path, columns=columns, filters=[("image_id", "in", ids)]).to_pylist()
    return {row["image_id"]: shards.Place.of(row) for row in found if row["shard"] is not None}


def records(rows: "pd.DataFrame") -> list[dict[str, Any]]:
    """Rows as dictionaries; what is unknown is None, whatever pandas made of it."""
    found: list[dict[str, Any]] = rows.astype(object).where(rows.notna(), None).to_dict("records")  # type: ignore[assignment]
    return found


def place(row: Mapping[str, Any]) -> str:
    """Where a row of the quarantine stood in its source: file and row, as far as they are known."""
    return ", ".join([row["file"] or "", *([f"row {row['row']:.0f}"] if row["row"] is not None else [])])


def _odd(row: Mapping[str, Any], uri: str = "") -> Odd:
    sides = f"{row['width']:.0f} × {row['height']:.0f}" if row["width"] and row["height"] else ""
    return Odd(row["set"], row["id"], place(row), row["reason"], row["outcome"], sides, uri)
