"""Measures pairs: whether and where their images and texts stand in the other tables."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from tuwen.data.formats.pairs import PairSet, RowNumbers

if TYPE_CHECKING:
    import pandas as pd


def measure_pairs(pair_set: PairSet) -> "pd.DataFrame":
    """Return the pairs table with `picture_exists` and `caption_exists`: whether the other tables have the ids."""
    frame: pd.DataFrame = pair_set.pairs.to_pandas()
    frame["picture_exists"] = frame["image_id"].isin(pair_set.images["image_id"].to_pylist())
    frame["caption_exists"] = frame["text_id"].isin(pair_set.texts["text_id"].to_pylist())
    return frame


def find_ends(pair_set: PairSet) -> tuple[RowNumbers, RowNumbers]:
    """Return (row in images, row in texts) of every pair [P]; -1 where there is none. Ids must not repeat."""
    ends = [
        pc.fill_null(pc.index_in(pair_set.pairs[key], value_set=table[key]), -1).to_numpy().astype(np.int64)
        for key, table in (("image_id", pair_set.images), ("text_id", pair_set.texts))
    ]
    return ends[0], ends[1]
