"""Where retrieval is weak: the headline over kinds of queries, by caption and by category of the picture."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.params import Evaluate
from tuwen.data.formats import pairs
from tuwen.data.formats.text import HAN_MASK
from tuwen.evaluation.headline import MODELS, Percent
from tuwen.retrieval.metrics import compute_hits, compute_intervals

Flags = npt.NDArray[np.bool_]

LEAST = 10  # queries of a slice: fewer say nothing
NOTE = (
    "Texts by what their captions are like, pictures by category; the gallery is always the whole. Kinds of fewer "
    f"than {LEAST} queries are left out. Each interval stands for itself: of twenty, one may mislead by chance."
)
LENGTHS = {"up to 5 characters": (1, 5), "6 to 15 characters": (6, 15), "over 15 characters": (16, 1 << 31)}
HOLDS = {"digits": "[0-9０-９]", "Latin letters": r"\p{Latin}", "a mask": HAN_MASK}  # RE2


class Slice(NamedTuple):
    """hit@k over some queries of one direction; the gain's interval is paired."""

    direction: str
    title: str
    queries: int
    models: dict[str, Percent]
    gain: Percent


def collect_slices(test: pairs.PairSet, ranked: dict[str, pa.Table], k: int, evaluate: Evaluate) -> list[Slice]:
    """Every slice that holds some queries, at least LEAST, and not all; ranked: model -> its ranks table."""
    made = []
    of_texts = _by_caption(test.texts["caption"]), test.texts["text_id"]
    of_pictures = _by_category(test.images["category"]), test.images["image_id"]
    for direction, (kinds, ids) in {"t2i": of_texts, "i2t": of_pictures}.items():
        tables = [table.filter(pc.equal(table["direction"], direction)) for table in ranked.values()]
        first, second = (compute_hits(table["best_rank"].to_numpy(), [k]) for table in tables)
        values_N3 = 100 * np.hstack([first, second, second - first])
        row = pc.index_in(tables[0]["query_id"], value_set=ids.combine_chunks()).to_numpy()
        groups = tables[0]["group"].to_numpy()
        for title, flags in kinds.items():
            of = flags[row]
            if LEAST <= of.sum() < len(of):
                ends = compute_intervals(
                    values_N3[of], groups[of], evaluate.bootstrap_samples, evaluate.seed
                ).tolist()
                *both, gain = map(Percent, values_N3[of].mean(axis=0).tolist(), *zip(*ends, strict=True))
                made.append(Slice(direction, title, int(of.sum()), dict(zip(MODELS, both, strict=True)), gain))
    return made


def _by_caption(captions: pa.ChunkedArray) -> dict[str, Flags]:
    chars = pc.utf8_length(captions).to_numpy()
    lengths = {title: (low <= chars) & (chars <= high) for title, (low, high) in LENGTHS.items()}
    return lengths | {
        f"with {title}": pc.match_substring_regex(captions, kind).to_numpy() for title, kind in HOLDS.items()
    }


def _by_category(categories: pa.ChunkedArray) -> dict[str, Flags]:
    names = sorted(set(categories.drop_null().to_pylist()))
    return {name: pc.fill_null(pc.equal(categories, name), False).to_numpy() for name in names}
