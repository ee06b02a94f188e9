"""Where retrieval is weak: the headline over kinds of queries, by caption and by category of the image."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.params import Evaluate
from tuwen.data.formats import pairs
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.text import HAN_MASK
from tuwen.evaluation.metric import Estimate
from tuwen.evaluation.ranks import RankedQueries
from tuwen.retrieval.intervals.resampling import compute_intervals
from tuwen.retrieval.metrics import compute_hits
from tuwen.retrieval.vectors import Flags

LEAST = 10  # queries of a slice: fewer say nothing
NOTE = (
    "Texts by what their captions are like, pictures by category; the gallery is always the whole. Kinds of fewer "
    f"than {LEAST} queries are left out. Each interval stands for itself: of twenty, one may mislead by chance."
)
LENGTHS = {"up to 5 characters": (1, 5), "6 to 15 characters": (6, 15), "over 15 characters": (16, 1 << 31)}
HOLDS = {"digits": "[0-9０-９]", "Latin letters": r"\p{Latin}", "a mask": HAN_MASK}  # RE2


class Slice(NamedTuple):
    """hit@k over some queries of one direction, in percent; a gain's interval is paired."""

    direction: str
    title: str
    queries: int
    models: dict[str, Estimate]
    gains: dict[str, Estimate]  # of each model but the first, over it


def collect_slices(
    test: pairs.PairSet, ranks: Mapping[str, Mapping[str, RankedQueries]], k: int, evaluate: Evaluate
) -> list[Slice]:
    """Return every slice that holds some queries, at least LEAST, and not all.

    ranks: model -> its ranks by direction, that of the base first.
    """
    slices = []
    kinds_by_direction = {"t2i": _sort_by_caption(test.texts), "i2t": _sort_by_category(test.images)}
    for name, direction in DIRECTIONS.items():
        ids = getattr(test, direction.queries)[direction.query_id].combine_chunks()
        base, *rivals = (directions[name] for directions in ranks.values())
        row_N = pc.index_in(base.query_ids, value_set=ids).to_numpy()
        hits = [compute_hits(ranked.judged, [k]) for ranked in (base, *rivals)]
        values = np.hstack([*hits, *(hit - hits[0] for hit in hits[1:])])
        least = np.array([0] * len(hits) + [-1] * len(rivals))
        for title, flags in kinds_by_direction[name].items():
            inside = flags[row_N]
            if not LEAST <= inside.sum() < len(inside):
                continue
            samples, seed = evaluate.bootstrap_samples, evaluate.seed
            ends = 100 * compute_intervals(values[inside], base.groups[inside], samples, seed, least=least)
            estimates = list(map(Estimate, (100 * values[inside].mean(axis=0)).tolist(), *ends.T.tolist()))
            models, gains = estimates[: len(ranks)], estimates[len(ranks) :]
            slices.append(
                Slice(
                    direction=name,
                    title=title,
                    queries=int(inside.sum()),
                    models=dict(zip(ranks, models, strict=True)),
                    gains=dict(zip(list(ranks)[1:], gains, strict=True)),
                )
            )
    return slices


def _sort_by_caption(texts: pa.Table) -> dict[str, Flags]:
    """Return kind -> which texts [T] are of it."""
    chars = pc.utf8_length(texts["caption"]).to_numpy()
    kinds = {title: (low <= chars) & (chars <= high) for title, (low, high) in LENGTHS.items()}
    for title, pattern in HOLDS.items():
        kinds[f"with {title}"] = pc.match_substring_regex(texts["caption"], pattern).to_numpy()
    return kinds


def _sort_by_category(images: pa.Table) -> dict[str, Flags]:
    """Return category -> which images [I] are of it."""
    categories = images["category"]
    names = sorted(set(categories.drop_null().to_pylist()))
    return {name: pc.fill_null(pc.equal(categories, name), False).to_numpy() for name in names}
