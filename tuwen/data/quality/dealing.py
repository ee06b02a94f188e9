"""The clean labelled pairs dealt out to train, valid and test, with what the split is expected to be."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tuwen.core.errors import UserError
from tuwen.core.params import Split, Validate
from tuwen.data.formats import pairs
from tuwen.data.quality import expectations, quarantine, suites
from tuwen.data.quality.duplicates import counterparts
from tuwen.data.quality.duplicates.groups import find_split_groups, join_copies, number_copies, replace_groups
from tuwen.data.quality.examined_table import ExaminedTable
from tuwen.data.quality.split import (
    SPLITS,
    count_prevented_leaks,
    deal_images,
    find_copies_across_splits,
    select_images,
)

if TYPE_CHECKING:
    import pandas as pd


class Dealt(NamedTuple):
    """The labelled set dealt out."""

    parts: dict[str, pairs.PairSet]  # split -> its pairs
    held_out: "pd.DataFrame"  # the measured images of valid and test
    summary: dict[str, Any]  # groups and leaks, for quality.json


def deal_labelled(labelled: quarantine.ExaminedSet, params: Validate, dealing: Split) -> Dealt:
    """Deal the clean pairs out to the splits and take what leaks out of the earlier split.

    Raises UserError where a split is left without an image, or a group is too large.
    """
    if dealing.official:
        _require_clean_official_splits(labelled.images)
    images = _group_images(labelled, params)
    sizes = images["split_group"].value_counts().rename_axis("group").reset_index(name="pictures")
    findings = expectations.run_suite(sizes, suites.build_group_suite(params, len(images)))
    expectations.stop_on_critical(labelled.images.place, sizes, findings)
    images["dealt"], reaches = deal_images(images, dealing)
    labelled.images.frame["reaches"] = reaches.reindex(labelled.images.frame.index)
    leaks = counterparts.find_leaked_into(images.assign(reaches=reaches))
    others = labelled.images.describe_rows(list(leaks.values()))
    labelled.images.counterparts |= dict(zip(leaks, others, strict=True))
    if labelled.images.examine(suites.build_leak_suite()):
        quarantine.remove_torn_pairs(labelled)
    kept, clean = images.loc[labelled.images.clean.index], labelled.select_clean()
    grouped = replace(clean, images=join_copies(replace_groups(clean.images, kept["split_group"].tolist())))
    parts = {name: select_images(grouped, kept["image_id"][kept["dealt"] == name].tolist()) for name in SPLITS}
    assert_nothing_lost(grouped, parts)
    _require_images(labelled.images.place, parts)
    _note_copies(labelled.images.frame, images)
    across = _examine_copies_elsewhere(labelled.images, kept)
    summary = {
        "groups": _summarise_groups(sizes, across),
        "leaks": {"prevented": count_prevented_leaks(images, dealing)}
        | {name: int((labelled.images.fault == name).sum()) for name in ("leaks_into_test", "leaks_into_valid")},
    }
    return Dealt(parts, kept[kept["dealt"] != "train"], summary)


def _group_images(labelled: quarantine.ExaminedSet, params: Validate) -> "pd.DataFrame":
    """Return the clean measured images with `split_group` and `copies`; denied pairs join no groups."""
    normalised = labelled.texts.frame.set_index("text_id")["normalised"]
    links = labelled.links.clean
    true = links[links["label"].ne(0).fillna(True)]
    images = labelled.images.clean.copy()
    captions = true.assign(normalised=true["text_id"].map(normalised))
    largest = suites.choose_largest_group(params, len(images))
    images["split_group"] = find_split_groups(images, captions, params.max_pictures_per_caption, largest)
    images["copies"] = number_copies(images)
    return images


def _note_copies(frame: "pd.DataFrame", images: "pd.DataFrame") -> None:
    """Add to all measured images `copies`, as `images` has it, and `dealt`, which is null where one left before.

    What left before, such as the image of a repeated pair, is a copy where its bytes equal those of `images`.
    """
    same_bytes = images.dropna(subset="sha256").drop_duplicates("sha256").set_index("sha256")["copies"]
    copies = images["copies"].reindex(frame.index).astype("Int64")
    frame["copies"] = copies.fillna(frame["sha256"].map(same_bytes).astype("Int64"))
    frame["dealt"] = images["dealt"].reindex(frame.index)


def _examine_copies_elsewhere(table: ExaminedTable, kept: "pd.DataFrame") -> int:
    """Report the images with a copy in another split, which the source's groups part; return their number."""
    across = find_copies_across_splits(kept["dealt"], kept["copies"])
    table.frame["near_elsewhere"] = across.reindex(table.frame.index, fill_value=False)
    table.examine(suites.build_across_suite())
    copies = counterparts.find_copies_elsewhere(kept[across])
    others = table.describe_rows(list(copies.values()))
    table.note_staying("near_equal_across_splits", dict(zip(copies, others, strict=True)))
    return int(across.sum())


def _summarise_groups(sizes: "pd.DataFrame", near_across_splits: int) -> dict[str, int]:
    return {
        "groups": len(sizes),
        "groups_of_several_pictures": int((sizes["pictures"] > 1).sum()),
        "largest_group_pictures": int(sizes["pictures"].max()),
        # where the source's groups part them
        "near_equal_pictures_across_splits": near_across_splits,
    }


def _require_clean_official_splits(images: ExaminedTable) -> None:
    """Raise UserError where no image of one of the source's own splits is clean: no other may take its place."""
    counts, clean = images.frame["split"].value_counts(), set(images.clean["split"].dropna())
    for split in SPLITS:
        if split in counts and split not in clean:
            raise UserError(
                f"{images.place}: split {split}: none of its {counts[split]} pictures is clean; mend them in the "
                "source, clean/quarantine.csv names them, or set split.official to false"
            )


def _require_images(place: Path, parts: Mapping[str, pairs.PairSet]) -> None:
    for split in SPLITS:
        if not len(parts[split].images):
            raise UserError(
                f"{place}: split {split}: no picture is left, all of its groups reach a later split (as where "
                "valid is a copy of test); take the copies that clean/quarantine.csv names out of the source, "
                "or set split.official to false"
            )


def assert_nothing_lost(labelled: pairs.PairSet, parts: Mapping[str, pairs.PairSet]) -> None:
    """Assert that every image and pair stands in one split, every text in at least one, and no group in two."""
    for table, key in (("images", "image_id"), ("pairs", "pair_id")):
        dealt = [name for part in parts.values() for name in getattr(part, table)[key].to_pylist()]
        assert sorted(dealt) == sorted(getattr(labelled, table)[key].to_pylist()), f"{table}: rows lost or doubled"
    texts = {text_id for part in parts.values() for text_id in part.texts["text_id"].to_pylist()}
    assert texts == set(labelled.texts["text_id"].to_pylist()), "texts: rows lost"
    groups = [set(part.images["group"].to_pylist()) for part in parts.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)), "a group spans splits"
