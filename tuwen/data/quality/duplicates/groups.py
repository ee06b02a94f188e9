"""Split groups: which images must stay in one split, and which are copies of each other."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tuwen.data.formats.pairs import IMAGES
from tuwen.data.quality.duplicates.components import (
    Booleans,
    Edges,
    join_within,
    label_by_keys,
    label_components,
    number_keys,
)
from tuwen.data.quality.duplicates.near_duplicates import (
    Looks,
    collect_looks,
    find_near_pairs,
    number_near_clusters,
)

if TYPE_CHECKING:
    import pandas as pd


def find_split_groups(
    images: "pd.DataFrame", captions: "pd.DataFrame", max_carriers: int, largest: int
) -> list[str]:
    """Return the name of every image's split group: the connected component of images that must not be parted.

    images: image_id, positive_id, group, sha256, blank, thumbnail. captions: image_id and
    normalised, one row per true pair. The source's `group`, its `positive_id` and equal bytes always join. Near
    images and equal captions join two images only where the source leaves the group of at least one unknown:
    they are our guess at what the source knows better. A caption on more than `max_carriers` images joins
    nothing, and none makes a group of more than `largest` images: short ones (红色, 水果) would chain a whole set
    together. Captions of few images join first. A component is named by its smallest source group, else by its
    smallest image_id, so the order of the rows does not matter.
    """
    keys = [number_keys(images[name]) for name in ("group", "positive_id", "sha256")]
    unknown = images["group"].isna().to_numpy(bool)
    if unknown.any():
        keys.append(_key_near_images(images, unknown))
    component = label_by_keys(len(images), keys)
    if unknown.any():
        shared = _key_shared_captions(images["image_id"], unknown, captions, max_carriers)
        component = join_within(component, shared, largest)
    by_image = images["image_id"].groupby(component).min()
    by_source = images["group"].dropna().groupby(component[images["group"].notna().to_numpy()]).min()
    names = by_source.reindex(by_image.index).fillna(by_image)
    return [str(name) for name in names.loc[component.tolist()]]


def number_copies(images: "pd.DataFrame") -> "pd.Series[int]":
    """Return a number per image, shared by those of equal bytes or joined by a chain of near ones.

    images: sha256, blank, thumbnail.
    """
    import pandas as pd

    keys = [number_keys(images["sha256"]), number_keys(number_near_clusters(images))]
    return pd.Series(label_by_keys(len(images), keys), images.index)


def join_copies(images: pa.Table) -> pa.Table:
    """Return the images table with one positive_id for images of equal bytes and their siblings: the first one's.

    First by image_id; an image without bytes has no copy.
    """
    frame = images.select(["image_id", "positive_id", "sha256"]).to_pandas()
    component = label_by_keys(len(frame), [number_keys(frame["positive_id"]), number_keys(frame["sha256"])])
    first = frame.assign(component=component).sort_values("image_id").groupby("component")["positive_id"].first()
    return _replace_column(images, "positive_id", first.loc[component.tolist()].tolist())


def replace_groups(images: pa.Table, groups: list[str]) -> pa.Table:
    """Return the images table with another `group` column."""
    return _replace_column(images, "group", groups)


def _replace_column(images: pa.Table, name: str, values: list[str]) -> pa.Table:
    return images.set_column(IMAGES.get_field_index(name), IMAGES.field(name), pa.array(values, pa.string()))


def _key_shared_captions(
    image_ids: "pd.Series[str]", unknown: Booleans, captions: "pd.DataFrame", max_carriers: int
) -> Edges:
    """Key the images whose captions are equal, where at least one of them lacks a group and so joins them all.

    The keys of few images have the lowest numbers, among these those of long captions.
    """
    import pandas as pd

    carriers = captions["image_id"].map(pd.Series(range(len(image_ids)), image_ids.to_numpy())).to_numpy(int)
    carried = pd.DataFrame({"row": carriers, "caption": captions["normalised"].to_numpy()}).drop_duplicates()
    carried["unknown"] = unknown[carried["row"]]
    by_caption = carried.groupby("caption").agg(carriers=("row", "size"), joins=("unknown", "any")).reset_index()
    by_caption = by_caption[by_caption["joins"] & by_caption["carriers"].between(2, max_carriers)]
    by_caption["shortness"] = -by_caption["caption"].str.len()
    order = by_caption.sort_values(["carriers", "shortness", "caption"])["caption"]
    numbers = carried["caption"].map(pd.Series(range(len(order)), order.to_numpy()))
    shared = numbers.notna().to_numpy()
    return carried["row"].to_numpy()[shared], numbers[shared].to_numpy(int)


def _key_near_images(images: "pd.DataFrame", unknown: Booleans) -> Edges:
    """Key the images in chains of near ones in which no two neighbours both have a group of the source."""
    alone, grouped = collect_looks(images[unknown]), collect_looks(images[~unknown])
    middle = len(alone.thumbnails)  # the looks of grouped images are numbered from here
    labels = label_components(middle + len(grouped.thumbnails), _find_joining_pairs(alone, grouped))
    key = np.full(len(images), -1)
    for looks, members, first in ((alone, unknown, 0), (grouped, ~unknown, middle)):
        rows, has_look = np.flatnonzero(members), looks.look_of >= 0
        key[rows[has_look]] = labels[looks.look_of[has_look] + first]
    # alone in its component, a look of grouped images is near to none without a group
    joined = (key >= 0) & (unknown | np.append(np.bincount(labels) > 1, False)[key])
    return np.flatnonzero(joined), key[joined]


def _find_joining_pairs(alone: Looks, grouped: Looks) -> Iterator[Edges]:
    """Yield the near pairs among `alone`, then those of `alone` and `grouped`, numbered behind `alone`."""
    yield from find_near_pairs(alone, alone)
    for one, other in find_near_pairs(alone, grouped):
        yield one, other + len(alone.thumbnails)
