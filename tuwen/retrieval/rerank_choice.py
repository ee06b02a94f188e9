"""How many first answers a re-ranker reads, and what the cosine weighs in its score: chosen on a set like valid.

`evaluate@reranked` writes the choice into details.json; whoever answers by the re-ranker reads it there.
Ranks are moved rather than searched again, so that many choices cost one search.
Shapes: Q queries, k first answers, P true pairs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.json_file import read_json
from tuwen.retrieval.metrics import Judged, compute_hits, judge_ranks
from tuwen.retrieval.rerank import Matches, rank_first
from tuwen.retrieval.vectors import Rows

WEIGHTS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the cosine, to choose from; R2D2's is 1


class OrderChoice(NamedTuple):
    """How the first answers are reordered."""

    k: int  # how many of them; 1 leaves all as they are
    weight: float  # of the cosine


class TrueRanks(NamedTuple):
    """The true items of a task by cosine, as `metrics.rank_true_items` returns them."""

    query: Rows  # [P]
    rank: Rows  # [P] 1-based


def list_depths(most: int) -> list[int]:
    """Return the depths to choose from: 2, 4, 8 … and `most` itself, which is 1 or more."""
    powers = [2**n for n in range(1, most.bit_length()) if 2**n < most]
    return [*powers, most]


def judge_choice(true: TrueRanks, matches: Matches, choice: OrderChoice, ks: Sequence[int]) -> Judged:
    """Judge the order that a choice gives, by the ranks that it moves, without another search.

    matches: of the queries whose true items' ranks `true` holds, in the same gallery. A true item beyond the
    first k keeps the rank that its cosine gives it.
    """
    order_Qk, moved = rank_first(matches, *choice), true.rank.copy()
    rank_Qk = np.argsort(order_Qk, axis=1) + 1  # the inverse permutation
    within = true.rank <= order_Qk.shape[1]
    moved[within] = rank_Qk[true.query[within], true.rank[within] - 1]
    return judge_ranks(true.query, moved, ks)


def choose_order(true: TrueRanks, matches: Matches, most: int, ks: Sequence[int]) -> OrderChoice:
    """Return the depth, at most `most`, and the weight with the best mean of hit@k over ks, for a set like valid.

    Of equal ones it is what changes least: the smallest depth, and there the largest weight; depth 1, which leaves
    all as they are, where nothing is better than that.
    """
    depths = dict.fromkeys([1, *list_depths(most)])
    choices = [OrderChoice(k, weight) for k in depths for weight in reversed(WEIGHTS)]
    hits = [compute_hits(judge_choice(true, matches, choice, ks), ks).mean() for choice in choices]
    return choices[int(np.argmax(hits))]


def read_choices(details: Path, *, sure_alone: bool = False) -> dict[str, OrderChoice]:
    """Return by direction what was chosen for a re-ranker, from the details.json of the re-ranked model.

    sure_alone: only the directions in which re-ranking raised the mean of R@k on valid beyond doubt. Raises
    UserError where the file does not tell.
    """
    remedy = "run `dvc repro evaluate@reranked`"
    body = read_json(details, remedy)
    try:
        chosen = {name: body["reranking"][name] for name in DIRECTIONS}
        return {
            name: OrderChoice(int(one["k"]), float(one["weight"]))
            for name, one in chosen.items()
            if one["sure_on_valid"] or not sure_alone
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{details}: does not say how to re-rank ({error!r}); {remedy}") from None
