"""Which row a fault is about: the pair that another repeats, the picture that one leaks into or is near to."""

from typing import TYPE_CHECKING, Any

import numpy as np

from tuwen.data.quality.duplicates.components import Integers
from tuwen.data.quality.duplicates.near_duplicates import collect_looks, find_near_pairs

if TYPE_CHECKING:
    import pandas as pd


def describe_rows(set_name: str, rows: "pd.DataFrame") -> list[str]:
    """Return rows in words, `labelled 图1.png (表.csv, row 3)`, without a file or a row that the source lacks.

    rows: the id as the first column, file, row.
    """
    import pandas as pd

    described = []
    for id_, file, row in zip(rows.iloc[:, 0], rows["file"], rows["row"].astype("Int64"), strict=True):
        places = [str(file)] if isinstance(file, str) else []
        places += [] if pd.isna(row) else [f"row {row}"]
        described.append(f"{set_name} {id_}" + (f" ({', '.join(places)})" if places else ""))
    return described


def find_originals(keys: "pd.DataFrame") -> Integers:
    """Return for every row [N] the place of the first one that is equal in all columns, its own where none is."""
    numbers = keys.groupby(list(keys.columns), sort=False).ngroup().to_numpy()
    first: Integers = np.unique(numbers, return_index=True)[1]
    return first[numbers]


def find_leaked_into(images: "pd.DataFrame") -> dict[Any, Any]:
    """Return image -> the image of the later split that its group reaches: a copy of it, else the first by id.

    images: image_id, split_group, copies, split, reaches; both are named by their index labels.
    """
    leaking = images[images["reaches"].notna()]
    reached = images[images["split"].isin(leaking["reaches"].unique())].sort_values("image_id")
    found: dict[Any, Any] = {}
    for key in ("copies", "split_group"):
        first = reached.drop_duplicates([key, "split"])
        labels = dict(zip(zip(first[key], first["split"], strict=True), first.index, strict=True))
        for label, place in zip(leaking.index, zip(leaking[key], leaking["reaches"], strict=True), strict=True):
            if place in labels:
                found.setdefault(label, labels[place])
    return found


def find_copies_elsewhere(images: "pd.DataFrame") -> dict[Any, Any]:
    """Return image -> its first copy in another split, by their index labels.

    images: image_id, copies, dealt, of those alone that have such a copy.
    """
    ordered = images.sort_values("image_id").drop_duplicates(["copies", "dealt"])
    by_copies = {key: list(zip(one["dealt"], one.index, strict=True)) for key, one in ordered.groupby("copies")}
    return {
        label: next(other for split, other in by_copies[key] if split != own)
        for label, key, own in zip(images.index, images["copies"], images["dealt"], strict=True)
    }


def find_nearest_held_out(images: "pd.DataFrame", held_out: "pd.DataFrame") -> dict[Any, Any]:
    """Return image -> the image of `held_out` with the same bytes, else the first near one, by their index labels.

    Both: measured_sha256, blank, thumbnail. An image that neither equals nor is near to one is not
    there.
    """
    looks, other_looks = collect_looks(images), collect_looks(held_out)
    near = np.full(len(looks.thumbnails) + 1, len(held_out))  # the last one stands for what has no look
    first_with_look = np.full(len(other_looks.thumbnails), len(held_out))
    has_look = other_looks.look_of >= 0
    np.minimum.at(first_with_look, other_looks.look_of[has_look], np.flatnonzero(has_look))
    for rows, other_rows in find_near_pairs(looks, other_looks):
        np.minimum.at(near, rows, first_with_look[other_rows])
    labels = held_out.index
    equal = dict(zip(held_out["measured_sha256"][::-1], labels[::-1], strict=True))
    found = {}
    for label, digest, row in zip(images.index, images["measured_sha256"], near[looks.look_of], strict=True):
        if digest in equal:
            found[label] = equal[digest]
        elif row < len(labels):
            found[label] = labels[row]
    return found
