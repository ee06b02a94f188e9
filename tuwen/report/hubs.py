"""Hubs: items of the gallery that stand among the first answers of far more queries than their share."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.evaluation.findings import Details, Hub
from tuwen.report import examples


class Shown(NamedTuple):
    """One hub as the page shows it."""

    times: int
    caption: str  # of a picture: its first one
    uri: str  # of a picture, small; of a text: empty


class Direction(NamedTuple):
    """The hubs of one direction of one model."""

    k: int
    mean: float  # of how many queries an item is among the first k, on average
    top: list[Shown]


def collect_hubs(
    data: Path, pair_set: pairs.PairSet, details: Details, figures: Mapping[str, float], results: Path
) -> dict[str, Direction]:
    """Direction -> its hubs. figures: the model's on this set; results: the folder of its details.json.

    Raises UserError when an id is not in the set.
    """
    hubs, place = dict(details.hubs), results / "details.json"
    images, texts = pair_set.images, pair_set.texts
    captions = texts["caption"].to_pylist()
    pictures = _rows(images["image_id"], hubs["t2i"].top, place)
    uris, names = examples.thumbnails(data, images, set(pictures)), examples.names(pair_set)
    shown = {
        "t2i": [
            Shown(hub.times, names.get(row, ""), uris[row])
            for hub, row in zip(hubs["t2i"].top, pictures, strict=True)
        ],
        "i2t": [
            Shown(hub.times, captions[row], "")
            for hub, row in zip(hubs["i2t"].top, _rows(texts["text_id"], hubs["i2t"].top, place), strict=True)
        ],
    }
    gallery = {"t2i": len(images), "i2t": len(texts)}
    return {
        way: Direction(hubs[way].k, hubs[way].k * figures[f"{way}_queries"] / gallery[way], top)
        for way, top in shown.items()
    }


def _rows(ids: pa.ChunkedArray, top: list[Hub], place: Path) -> list[int]:
    found = pc.index_in(pa.array([hub.id for hub in top], pa.string()), value_set=ids.combine_chunks())
    if found.null_count:
        raise UserError(f"{place}: hubs name items that are not in clean/test; run `dvc repro`")
    return list(found.to_pylist())
