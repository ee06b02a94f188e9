"""Hubs: items of the gallery that stand among the first answers of far more queries than their share."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.evaluation.details import Details, Hub
from tuwen.report import examples


class ShownHub(NamedTuple):
    """One hub as the page shows it."""

    times: int
    caption: str  # of an image: its first one
    uri: str  # of an image, small; of a text: empty


class DirectionHubs(NamedTuple):
    """The hubs of one direction of one model."""

    k: int
    mean: float  # of how many queries an item is among the first k, on average
    top: list[ShownHub]


def collect_hubs(
    data: Path, pair_set: pairs.PairSet, details: Details, metrics: Mapping[str, float], results: Path
) -> dict[str, DirectionHubs]:
    """Return direction -> its hubs. metrics: the model's on this set; results: the folder of its details.json.

    Raises UserError when an id is not in the set.
    """
    captions, first_captions = pair_set.texts["caption"].to_pylist(), examples.list_first_captions(pair_set)
    by_direction = {}
    for name, direction in DIRECTIONS.items():
        gallery, hubs = getattr(pair_set, direction.gallery), details.hubs[name]
        rows = _find_rows(gallery[direction.gallery_id], hubs.top, results / "details.json")
        if direction.gallery == "images":
            uris = examples.make_thumbnails(data, gallery, set(rows))
            shown = [(first_captions.get(row, ""), uris[row]) for row in rows]
        else:
            shown = [(captions[row], "") for row in rows]
        top = [ShownHub(hub.times, *one) for hub, one in zip(hubs.top, shown, strict=True)]
        mean = hubs.k * metrics[f"{name}_queries"] / len(gallery)
        by_direction[name] = DirectionHubs(hubs.k, mean, top)
    return by_direction


def _find_rows(ids: pa.ChunkedArray, top: list[Hub], place: Path) -> list[int]:
    rows = pc.index_in(pa.array([hub.id for hub in top], pa.string()), value_set=ids.combine_chunks())
    if rows.null_count:
        raise UserError(f"{place}: hubs name items that are not in clean/test; run `dvc repro`")
    return list(rows.to_pylist())
