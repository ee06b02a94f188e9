"""The pairs that fit least by the baseline, as `evaluate` measured, with images and captions for the report."""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.errors import UserError
from tuwen.core.params import Pairs
from tuwen.data.formats import pairs, shards
from tuwen.report.html.histogram import draw_histogram
from tuwen.report.html.page import make_thumbnail


class DoubtfulPair(NamedTuple):
    """One pair of low cosine."""

    cosine: float
    pair_id: str
    image_id: str
    text_id: str
    caption: str
    uri: str  # of its image, small


class Doubtful(NamedTuple):
    """The lowest pairs, and a histogram of all."""

    lowest: list[DoubtfulPair]
    histogram: str  # SVG


def collect_doubtful_pairs(data: Path, cosines: Path, params: Pairs) -> Doubtful:
    """Return the `params.lowest` pairs of the bank by the cosines of one model.

    data: the data root; cosines: the table that `evaluate` wrote. Raises UserError when it does not fit the bank.
    """
    table, bank = pairs.read_table(cosines), pairs.read_pair_set(data / "clean/bank")
    lowest = table.slice(0, params.lowest)
    images, texts = _take(bank.images, "image_id", lowest, cosines), _take(bank.texts, "text_id", lowest, cosines)
    shown = [
        DoubtfulPair(
            cosine=row["cosine"],
            pair_id=row["pair_id"],
            image_id=row["image_id"],
            text_id=row["text_id"],
            caption=text["caption"],
            uri=_make_thumbnail(data, image),
        )
        for row, image, text in zip(lowest.to_pylist(), images, texts, strict=True)
    ]
    values = {"labelled": table["cosine"].to_numpy()}
    mark = None if params.min_cosine == "auto" else params.min_cosine
    return Doubtful(shown, draw_histogram("cosines", "cosine of a pair", values, mark=mark))


def _take(table: pa.Table, key: str, rows: pa.Table, place: Path) -> list[dict[str, str]]:
    places = pc.index_in(rows[key], value_set=table[key].combine_chunks())
    if places.null_count:
        raise UserError(f"{place}: names pairs that are not in clean/bank; run `dvc repro`")
    return list(table.take(places).to_pylist())


def _make_thumbnail(data: Path, image: dict[str, str]) -> str:
    place = shards.Place(image["shard"], int(image["offset"]), int(image["size"]))
    return make_thumbnail(shards.read_member(data, place))
