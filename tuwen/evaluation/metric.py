"""What a metric is: a name in metrics.json, a title, a unit, and what it is computed from.

Shapes: N queries with a true item, K ks.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from tuwen.core.params import Evaluate
from tuwen.data.formats.directions import DIRECTIONS, Direction
from tuwen.evaluation.answers import Answers
from tuwen.evaluation.embedded_set import EmbeddedSet
from tuwen.retrieval.metrics import Judged
from tuwen.retrieval.vectors import Flags, Floats


class Unit(NamedTuple):
    """How people read a value: multiplied by `scale`, formatted by `form`, and followed by `symbol`."""

    scale: float
    form: str
    symbol: str = ""


PERCENT = Unit(100, ".1f", " %")
DECIMAL = Unit(1, ".2f")
RANK = Unit(1, "g")
WHOLE_NUMBER = Unit(1, ",.0f")


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval, which it may lack; for people, in the metric's unit."""

    value: float
    low: float | None = None
    high: float | None = None


def format_number(value: float, form: str) -> str:
    """Return a number as people read it: the minus sign is U+2212, in every report, table and line."""
    return f"{value:{form}}".replace("-", "−")


# queries by their captions: whether train holds an equal one
QueryPart = Literal["all", "seen", "unseen"]


def select_part(each: Floats, part: QueryPart, seen: Flags | None) -> Floats | None:
    """Return the values [N, K] of the queries of a part, NaN for the others; None where it has no query.

    seen: which queries [N] have a caption that stands in train; None where none has, so that there are no parts.
    """
    if part == "all" or seen is None:
        return each if part == "all" else None
    chosen = seen if part == "seen" else ~seen
    return np.where(chosen[:, None], each, np.nan) if chosen.any() else None


class OfQueries(NamedTuple):
    """The mean over queries of `compute`: [N, K], or [N, 1] where the metric has no k.

    It has the ranks of a direction alone, so that the gate can compute it from ranks.parquet. With an interval,
    each is a share from 0 to 1, or a difference of two.
    """

    compute: Callable[[Judged, Sequence[int]], Floats]
    # plain: by the model's own order; corrected: by QB-Norm; gain: corrected less plain; reordering: plain less
    # the order of the model that is reordered
    ranking: Literal["plain", "corrected", "gain", "reordering"] = "plain"
    part: QueryPart = "all"

    @property
    def least(self) -> float:
        """The least that a query's value can be."""
        return -1 if self.ranking in ("gain", "reordering") else 0

    def compute_each(self, answers: Answers, ks: Sequence[int]) -> Floats | None:
        """Return the value of each query, [N, K], NaN where it does not count; None where there is none.

        Without a bank there is no QB-Norm, and most models reorder nothing.
        """
        if self.ranking == "plain":
            return select_part(self.compute(answers.judged, ks), self.part, answers.seen)
        if self.ranking == "reordering":
            before = answers.judged_before
            return None if before is None else self.compute(answers.judged, ks) - self.compute(before, ks)
        if answers.judged_corrected is None:
            return None
        corrected = self.compute(answers.judged_corrected, ks)
        return corrected if self.ranking == "corrected" else corrected - self.compute(answers.judged, ks)


class OfGallery(NamedTuple):
    """The mean over queries of `compute`, [N, K], which takes the size of the gallery besides."""

    compute: Callable[[Judged, int, Sequence[int]], Floats]
    part: QueryPart = "all"

    def compute_each(self, answers: Answers, ks: Sequence[int]) -> Floats | None:
        """Return the value of each query, as `OfQueries` does."""
        return select_part(self.compute(answers.judged, answers.gallery, ks), self.part, answers.seen)


class OfAnswers(NamedTuple):
    """A number of a direction as a whole; None: it does not apply."""

    compute: Callable[[Answers], float | None]


class MeanOverKs(NamedTuple):
    """The mean over all ks of another metric with an interval, and over both directions where it names none."""

    key: str  # in FIGURES


class OfSet(NamedTuple):
    """A number of a set as a whole; None: it does not apply."""

    compute: Callable[[EmbeddedSet, Evaluate], Estimate | None]


class Metric(NamedTuple):
    """One row of FIGURES."""

    name: str  # in metrics.json; {direction} and {k} where there is a value for each
    title: str  # as people read it, with {k}
    unit: Unit
    source: OfQueries | OfGallery | OfAnswers | MeanOverKs | OfSet  # what it is computed from
    has_interval: bool = False  # <name>_low and <name>_high follow
    needs_bank: bool = False  # of QB-Norm, so foreign embeddings and models without vectors lack it
    needs_reordering: bool = False  # of a model that reorders what another finds
    needs_overlap: bool = False  # of a part of the queries, so a set whose captions are not in train lacks it
    in_gate: bool = False  # the gate shows it; of queries alone
    chance: str | None = None  # in FIGURES: what a ranking at random gets
    in_table: bool = True  # in the reports' table of further metrics; False: it stands elsewhere, or nowhere

    def list_values(self, ks: Sequence[int]) -> list[tuple[str, Direction | None, int | None]]:
        """Return (name in metrics.json, direction, k) of each of its values."""
        return [
            (self.name.format(direction=direction and direction.name, k=k), direction, k)
            for direction in (DIRECTIONS.values() if "{direction}" in self.name else [None])
            for k in (ks if "{k}" in self.name else [None])
        ]

    def make_title(self, k: int | None) -> str:
        """Return the title at this k."""
        return self.title.format(k=k)
