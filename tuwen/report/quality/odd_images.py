"""The images that a person should look at: those that left their set, and blank and very long ones that stay."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.parquet as pq

from tuwen.data.formats import shards
from tuwen.data.formats.images import MAX_ASPECT
from tuwen.report.html.page import make_thumbnail

if TYPE_CHECKING:
    import pandas as pd

MAX_IMAGES_SHOWN = 48
MAX_IMAGES_NAMED = 200  # of those that cannot be shown
LISTED_COLUMNS = ["set", "id", "file", "row", "reason", "outcome", "readable", "width", "height"]


class OddImage(NamedTuple):
    """One such image."""

    set: str
    id: str
    place: str  # its file and its row there
    reason: str
    outcome: str
    sides: str  # "640 × 480", empty where unknown
    uri: str  # empty where the image cannot be shown


class OddImages(NamedTuple):
    """Those that the page shows or names, and how many more there are."""

    shown: list[OddImage]
    named: list[OddImage]
    not_shown: int  # that would decode
    not_named: int  # that would not


def collect_odd_images(
    data: Path, measured: Mapping[str, "pd.DataFrame"], quarantine: "pd.DataFrame"
) -> OddImages:
    """Show the images that decode, as many of every set and reason as of the others; name those that do not.

    data: the data root; measured: set -> columns of `image_stats`; quarantine: the rows that left their set or are
    shown to a model as a blank. What `image_stats` did not decode is not decoded here. Raises UserError where a
    shard is missing.
    """
    rows = _list_rows(measured, quarantine[quarantine["item"] == "image"])
    decodes = rows["readable"].eq(True)
    turn = rows[decodes].groupby(["set", "reason"], sort=False).cumcount()
    chosen = rows.loc[turn.sort_values(kind="stable").index[:MAX_IMAGES_SHOWN].sort_values()]
    tried = _show(data, chosen)
    shown, failed = [odd for odd in tried if odd.uri], [odd for odd in tried if not odd.uri]
    unreadable = [_make_odd_image(row) for row in list_records(rows[~decodes].head(MAX_IMAGES_NAMED))]
    named = [*failed, *unreadable][:MAX_IMAGES_NAMED]
    decodable = int(decodes.sum())
    return OddImages(shown, named, decodable - len(tried), len(rows) - decodable + len(failed) - len(named))


def _list_rows(measured: Mapping[str, "pd.DataFrame"], quarantine: "pd.DataFrame") -> "pd.DataFrame":
    """Return LISTED_COLUMNS of all odd images: of every set those that left it, then the odd ones that stay."""
    import pandas as pd

    parts = [quarantine[~quarantine["set"].isin(list(measured))]]
    for name, images in measured.items():
        of_set = quarantine[quarantine["set"] == name]
        gone = images["image_id"].isin(of_set["id"])
        by_id = images[gone].drop_duplicates("image_id").set_index("image_id")
        if len(of_set):  # pandas cannot join two empty columns of strings
            parts.append(of_set.join(by_id[["readable", "width", "height"]], on="id"))
        stay = images[~gone]
        aspect = pd.to_numeric(stay["aspect"], errors="coerce")
        long = aspect[aspect > MAX_ASPECT].nlargest(MAX_IMAGES_SHOWN).index.sort_values()
        by_reason = {
            "blank": stay[stay["blank"].eq(True)],
            f"over {MAX_ASPECT:g} : 1, the ends are cut": stay.loc[long],
        }
        for reason, kept in by_reason.items():
            renamed = kept.head(MAX_IMAGES_SHOWN).rename(columns={"image_id": "id"})
            parts.append(renamed.assign(set=name, reason=reason, outcome="stays"))
    return pd.concat([part.reindex(columns=LISTED_COLUMNS).astype(object) for part in parts], ignore_index=True)


def _show(data: Path, rows: "pd.DataFrame") -> list[OddImage]:
    odd_images = []
    for name, of_set in rows.groupby("set", sort=False):
        uris = read_thumbnails(data, str(name), of_set["id"].tolist())
        odd_images += [_make_odd_image(row, uris.get(row["id"], "")) for row in list_records(of_set)]
    return odd_images


def read_thumbnails(data: Path, set_name: str, ids: list[str]) -> dict[str, str]:
    """Return image -> the `data:` URI of its thumbnail, of those that the raw set `set_name` has bytes of.

    Raises UserError where a shard is missing, OSError for bytes that do not decode.
    """
    path, columns = data / "raw" / set_name / "images.parquet", ["image_id", *shards.Place._fields]
    rows = pq.read_table(path, columns=columns, filters=[("image_id", "in", ids)]).to_pylist()
    places = {row["image_id"]: shards.Place.of(row) for row in rows if row["shard"] is not None}
    return {image_id: make_thumbnail(shards.read_member(data, place)) for image_id, place in places.items()}


def list_records(rows: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return rows as dictionaries; what is unknown is None, whatever pandas made of it."""
    records: list[dict[str, Any]] = rows.astype(object).where(rows.notna(), None).to_dict("records")  # type: ignore[assignment]
    return records


def describe_place(row: Mapping[str, Any]) -> str:
    """Return where a row of the quarantine stood in its source: file and row, as far as they are known."""
    return ", ".join([row["file"] or "", *([f"row {row['row']:.0f}"] if row["row"] is not None else [])])


def _make_odd_image(row: Mapping[str, Any], uri: str = "") -> OddImage:
    sides = f"{row['width']:.0f} × {row['height']:.0f}" if row["width"] and row["height"] else ""
    return OddImage(row["set"], row["id"], describe_place(row), row["reason"], row["outcome"], sides, uri)
