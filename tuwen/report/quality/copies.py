"""Labelled images that show the same, as groups to look at: equal bytes, or near in their looks."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tuwen.data.quality import summary
from tuwen.data.quality.split import SPLITS
from tuwen.report.quality.odd_images import describe_place, list_records, read_thumbnails

if TYPE_CHECKING:
    import pandas as pd

MAX_GROUPS_SHOWN = 20
MAX_COPIES_SHOWN = 6  # of one group


class Copy(NamedTuple):
    """One image of a group."""

    id: str
    place: str  # its file and its row there
    fate: str  # the split where it is now, or why it left; and the source's own split where that differs
    caption: str  # the first that fits it; empty where none does
    uri: str


class CopyGroup(NamedTuple):
    """Images that show the same."""

    shown: list[Copy]
    size: int  # with those that are not shown
    equal_bytes: bool  # else some are near in their looks alone
    source_splits: str  # "train, test" where the source has them in several; else empty
    splits: str  # those that they are in now, where these are several; else empty


class CopyGroups(NamedTuple):
    """The groups that the page shows, and how many groups and images of such groups there are in all."""

    shown: list[CopyGroup]
    groups: int
    images: int


def collect_copies(data: Path, frames: "summary.Frames", quarantine: "pd.DataFrame") -> CopyGroups:
    """Choose MAX_GROUPS_SHOWN groups: those that reach across splits first, among these the largest.

    data: the data root; frames: set -> table -> its measured columns, of labelled images with the `copies` and the
    split `dealt` that `dealing.deal_labelled` notes; quarantine: as `quarantine.parquet`. Raises UserError where a
    shard is missing.
    """
    labelled = frames.get("labelled", {})
    images = labelled.get("images")
    if images is None or "copies" not in images:
        return CopyGroups([], 0, 0)
    copies = images[images["copies"].notna() & images["copies"].duplicated(keep=False)].sort_values("image_id")
    if copies.empty:
        return CopyGroups([], 0, 0)
    copies = copies.assign(own=copies["split"].fillna(SPLITS[0]))  # as `split.deal_images` takes it
    groups = copies.groupby("copies").agg(size=("image_id", "size"), first=("image_id", "first"))
    parted = copies.groupby("copies")[["own", "dealt"]].nunique().max(axis=1) > 1
    order = groups.assign(parted=parted).sort_values(["parted", "size", "first"], ascending=[False, False, True])
    by_number = {number: copies[copies["copies"] == number] for number in order.index[:MAX_GROUPS_SHOWN]}
    chosen = [_choose_images(group) for group in by_number.values()]
    left = quarantine[(quarantine["set"] == "labelled") & (quarantine["outcome"] == "quarantined")]
    cards = _make_cards(data, [row for rows in chosen for row in rows], labelled, left)
    shown = [
        CopyGroup(
            [cards[row["image_id"]] for row in rows],
            len(group),
            group["sha256"].nunique() == 1,
            _name_several(group["own"]),
            _name_several(group["dealt"]),
        )
        for group, rows in zip(by_number.values(), chosen, strict=True)
    ]
    return CopyGroups(shown, len(groups), len(copies))


def _choose_images(group: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return MAX_COPIES_SHOWN images, as many of each split as of the others."""
    turn = group.groupby(["own", "dealt"], dropna=False).cumcount().sort_values(kind="stable")
    return list_records(group.loc[turn.index[:MAX_COPIES_SHOWN]])


def _name_several(splits: "pd.Series[str]") -> str:
    named = [split for split in SPLITS if splits.eq(split).any()]
    return ", ".join(named) if len(named) > 1 else ""


def _make_cards(
    data: Path,
    images: list[dict[str, Any]],
    labelled: "Mapping[str, pd.DataFrame]",
    left: "pd.DataFrame",
) -> dict[str, Copy]:
    """Return image -> how it is shown; left: the rows of the quarantine that left the set."""
    ids = [row["image_id"] for row in images]
    links = labelled["pairs"][labelled["pairs"]["image_id"].isin(ids)]
    true = links[links["label"].ne(0).fillna(True)].drop_duplicates("image_id")
    captions = labelled["texts"].set_index("text_id")["caption"].reindex(true["text_id"]).fillna("")
    caption_of = dict(zip(true["image_id"], captions, strict=True))
    why = _find_reasons(links, left)
    uris = read_thumbnails(data, "labelled", ids)
    return {
        id_: Copy(
            id_, describe_place(row), _describe_fate(row, why.get(id_)), caption_of.get(id_, ""), uris.get(id_, "")
        )
        for id_, row in zip(ids, images, strict=True)
    }


def _find_reasons(links: "pd.DataFrame", left: "pd.DataFrame") -> dict[str, str]:
    """Return image -> why it left its set; one without a pair left for the reason of its pair."""
    reasons = {item: dict(zip(rows["id"], rows["reason"], strict=True)) for item, rows in left.groupby("item")}
    of_pair = links["pair_id"].map(reasons.get("pair", {}))
    of_image = dict(zip(links["image_id"][::-1], of_pair[::-1], strict=True))
    return {
        id_: of_image[id_] if reason == "without_pair" and isinstance(of_image.get(id_), str) else reason
        for id_, reason in reasons.get("image", {}).items()
    }


def _describe_fate(row: Mapping[str, Any], reason: str | None) -> str:
    fate = f"left: {reason.replace('_', ' ')}" if reason else row["dealt"]
    return f"{fate} (source: {row['split']})" if row["split"] not in (None, fate) else fate
