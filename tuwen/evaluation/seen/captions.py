"""Which captions of a set stand in train too, and what a headline says of them."""

from collections.abc import Mapping

import numpy as np

from tuwen.data.formats import pairs
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.text import normalise_captions
from tuwen.retrieval.vectors import Flags


def find_seen_texts(tables: pairs.PairSet, train: pairs.PairSet, simplify: bool) -> Flags:
    """Return which texts [T] have a caption that is the same to the model as one that fits an image of `train`.

    train: the bank; simplify: as in `normalise_captions`, which decides.
    """
    true = set(pairs.select_true_pairs(train)["text_id"].to_pylist())
    rows = zip(train.texts["text_id"].to_pylist(), _list_forms(train, simplify), strict=True)
    known = {form for text_id, form in rows if text_id in true}
    return np.array([form in known for form in _list_forms(tables, simplify)], bool)


def _list_forms(tables: pairs.PairSet, simplify: bool) -> list[str]:
    return normalise_captions([caption or "" for caption in tables.texts["caption"].to_pylist()], simplify)


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
