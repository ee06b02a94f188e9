"""Split groups: which images must stay in one split, and which are copies of each other."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tuwen.data.formats.pairs import IMAGES
from tuwen.data.quality.duplicates.components import Booleans, Edges, label_by_keys, label_components, number_keys
from tuwen.data.quality.duplicates.near_duplicates import (
    Looks,
    collect_looks,
    find_near_pairs,
    number_near_clusters,
)

if TYPE_CHECKING:
    import pandas as pd

MIN_CAPTION_CHARS = 8  # shorter captions are equal by chance
MAX_CAPTION_IMAGES = 20  # a caption on more images is boilerplate


def find_split_groups(images: "pd.DataFrame", captions: "pd.DataFrame") -> list[str]:
    """Return the name of every image's split group: the connected component of images that must not be parted.

    images: image_id, positive_id, group, sha256, blank, thumbnail. captions: image_id, text_id and
    normalised, one row per true pair. The source's `group`, its `positive_id` and equal bytes always join. Near
    images, one text and equal captions join two images only where the source leaves the group of at least one
    unknown: they are our guess at what the source knows better. A component is named by its smallest source group,
    else by its smallest image_id, so the order of the rows does not matter.
    """
    keys = [number_keys(images[name]) for name in ("group", "positive_id", "sha256")]
    unknown = images["group"].isna().to_numpy(bool)
    if unknown.any():
        long = captions[captions["normalised"].str.len() >= MIN_CAPTION_CHARS]
        keys += [
            _key_near_images(images, unknown),
            _key_shared_captions(images["image_id"], unknown, captions["image_id"], captions["text_id"]),
            _key_shared_captions(images["image_id"], unknown, long["image_id"], long["normalised"]),
        ]
    component = label_by_keys(len(images), keys)
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
    image_ids: "pd.Series[str]", unknown: Booleans, carriers: "pd.Series[str]", key: "pd.Series[str]"
) -> Edges:
    """Key the images whose captions are equal, where at least one of them lacks a group and so joins them all.

    carriers: the image_id of every caption, key: what equal captions share.
    """
    import pandas as pd

    rows = carriers.map(pd.Series(range(len(image_ids)), image_ids.to_numpy())).to_numpy(int)
    joins = carriers.groupby(key).transform("nunique") <= MAX_CAPTION_IMAGES
    joins &= pd.Series(unknown[rows], key.index).groupby(key).transform("any")
    return rows[joins.to_numpy(bool)], key[joins].factorize()[0]


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
