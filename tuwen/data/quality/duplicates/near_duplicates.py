"""Images that show one picture, as formats/near_images decides: copies resized, mirrored, cut, bordered."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tuwen.data.formats.near_images.near_looks import (
    Bytes,
    collect_thumbnails,
    find_near_thumbnails,
    find_near_within,
)
from tuwen.data.quality.duplicates.components import Edges, Integers, label_components

if TYPE_CHECKING:
    import pandas as pd

LOOKS_AT_ONCE = 1 << 16  # compared with others: bounds the memory


class Looks(NamedTuple):
    """The N different looks of some images: many copies of one image need not be compared with each other."""

    thumbnails: Bytes  # [N, bytes of a thumbnail]
    look_of: Integers  # [number of images] the row here; -1 where an image is blank or was not measured


def number_near_clusters(images: "pd.DataFrame") -> "pd.Series[int]":
    """Return a number per image, shared by the images that a chain of near ones joins.

    images: blank and thumbnail, as of `looks.Look`. What is blank or was not measured is near to none.
    """
    import pandas as pd

    looks = collect_looks(images)
    numbers = np.arange(len(looks.look_of)) + len(looks.thumbnails)  # those of the images that are near to none
    if len(looks.thumbnails):
        clusters = label_components(len(looks.thumbnails), find_near_pairs(looks, looks))
        numbers = np.where(looks.look_of >= 0, clusters[looks.look_of], numbers)
    return pd.Series(numbers, images.index)


def find_near_images(images: "pd.DataFrame", others: "pd.DataFrame") -> "pd.Series[bool]":
    """Return whether each of `images` is near to one of `others`; columns as in `number_near_clusters`."""
    import pandas as pd

    looks, other_looks = collect_looks(images), collect_looks(others)
    near = np.zeros(len(looks.thumbnails) + 1, bool)  # the last one stands for what is near to none
    for rows, _ in find_near_pairs(looks, other_looks):
        near[rows] = True
    return pd.Series(near[looks.look_of], images.index, dtype=bool)


def collect_looks(images: "pd.DataFrame") -> Looks:
    """Return the different looks of measured images; blank and unmeasured ones have none."""
    measured = (images["thumbnail"].notna() & ~images["blank"].eq(True)).to_numpy(bool)
    look_of = np.full(len(images), -1)
    look_of[measured], thumbnails = images["thumbnail"][measured].factorize(sort=True)
    return Looks(collect_thumbnails(list(thumbnails)), look_of)


def find_near_pairs(one: Looks, other: Looks) -> Iterator[Edges]:
    """Yield (row of `one`, row of `other`) of every near pair, once or more; in one order if both are the same."""
    if one is other:
        yield from find_near_within(one.thumbnails)
        return
    for start in range(0, len(one.thumbnails), LOOKS_AT_ONCE):
        for rows, other_rows in find_near_thumbnails(
            one.thumbnails[start : start + LOOKS_AT_ONCE], other.thumbnails
        ):
            yield rows + start, other_rows
