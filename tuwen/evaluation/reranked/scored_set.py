"""A set as a re-ranker sees it."""

from collections.abc import Mapping
from typing import NamedTuple

from tuwen.evaluation.embedded_set import EmbeddedSet
from tuwen.retrieval.reordering import Scored
from tuwen.retrieval.vectors import Rows


class ScoredSet(NamedTuple):
    """A set's vectors by the dual encoder, and what the re-ranker says of its first answers."""

    embedded: EmbeddedSet
    ranks: Mapping[str, tuple[Rows, Rows]]  # direction -> what `rank_true_items` returns
    scored: Mapping[str, Scored]  # by direction
    pair_seconds: Mapping[str, float]  # direction -> what a pair took
