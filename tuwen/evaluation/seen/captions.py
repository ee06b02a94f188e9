"""Which captions of a set stand in train too, and what a headline says of them."""

from collections.abc import Mapping

import numpy as np

from tuwen.data.formats import pairs
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.text import normalise
from tuwen.retrieval.vectors import Flags


def find_seen_texts(tables: pairs.PairSet, train: pairs.PairSet) -> Flags:
    """Return which texts [T] have a caption whose normalised form fits an image of `train`, the bank."""
    true = set(pairs.select_true_pairs(train)["text_id"].to_pylist())
    rows = zip(train.texts["text_id"].to_pylist(), train.texts["caption"].to_pylist(), strict=True)
    known = {normalise(caption or "") for text_id, caption in rows if text_id in true}
    return np.array([normalise(caption or "") in known for caption in tables.texts["caption"].to_pylist()], bool)


def describe_seen(values: Mapping[str, float]) -> str:
    """Return how many queries have a caption that stands in train, from metrics.json; empty where none has."""
    counts, all_seen = [], []
    for name, direction in DIRECTIONS.items():
        seen, every = values.get(f"{name}_seen_queries", 0), values[f"{name}_queries"]
        counts.append(f"{seen:,.0f} of {every:,.0f} {'texts' if direction.queries == 'texts' else 'pictures'}")
        all_seen += [direction.title] * (seen == every)
    if not any(f"{name}_seen_queries" in values for name in DIRECTIONS):
        return ""
    told = f"{' and '.join(counts)} have a caption that stands in train too; the headline is about the others."
    return told + (
        f" No other is left {' and '.join(all_seen)}: what is said there is no test." if all_seen else ""
    )
