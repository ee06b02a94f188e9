"""A set as a re-ranker sees it: the first answers of each query, each with its probability of a match."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tuwen.core.params import Evaluate
from tuwen.data.formats import manifest
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.text import load_tokenizer
from tuwen.evaluation.answers import count_answers
from tuwen.evaluation.embedded_set import EmbeddedSet, read_embedded_set
from tuwen.evaluation.reranked.matching import list_judged_pairs
from tuwen.model.reranker import ReRanker
from tuwen.retrieval.match_pairs import score_token_pairs, write_tokens
from tuwen.retrieval.metrics import rank_true_items
from tuwen.retrieval.rerank import (
    TOKENS_WORK,
    Matches,
    embed_sides,
    has_own_towers,
    list_pair_sides,
    list_pairs,
    match_first,
    read_depth,
    require_preranker,
)
from tuwen.retrieval.rerank_choice import TrueRanks, list_depths
from tuwen.retrieval.vectors import Rows, Vectors

Score = Callable[[Rows, Rows], Vectors]  # image rows and text rows [P] -> probability [P]

QUERIES_TIMED = 32


class ScoredSet(NamedTuple):
    """A set's vectors by the re-ranker's dual encoder, and what it says of its first answers."""

    embedded: EmbeddedSet
    most: int  # first answers that may be reordered; more may have been scored, as metrics look at them
    ranks: Mapping[str, TrueRanks]  # by direction
    ranks_before: Mapping[str, TrueRanks]  # by the model that it began from; the same where its towers stayed
    matches: Mapping[str, Matches]  # by direction
    costs: Mapping[str, Mapping[int, float]]  # direction -> depth -> milliseconds per query: in no out


def score_set(reranker: ReRanker, model: Path, embedded: Path, folder: Path, params: Evaluate) -> ScoredSet:
    """Score the first answers of every query of the set in `folder`, and pairs known not to fit where it has some.

    model: folder of the re-ranker; embedded: vectors of the set by the dual encoder that it began from. Towers
    that were trained with it embed the set themselves. Raises UserError as `read_embedded_set`, and for vectors of
    another model.
    """
    require_preranker(embedded, model)
    manifest.require_inputs(embedded, {"set": folder})
    own = before = read_embedded_set(embedded, folder, None, params.ks)
    tokenizer, sides = load_tokenizer(model / "vocab.txt"), list_pair_sides(reranker, folder)
    if has_own_towers(model):
        anew = embed_sides(reranker, tokenizer, sides)
        own = before._replace(images=anew["images"], texts=anew["texts"])
    most = min(read_depth(model), len(own.images), len(own.texts))
    vectors = {"images": own.images, "texts": own.texts}
    score = partial(score_token_pairs, reranker, write_tokens(reranker, tokenizer, sides, TOKENS_WORK))
    matches = match_first(score, vectors, max(most, count_answers(own, params)), list(DIRECTIONS))
    if len(own.unfit[0]):
        own = own._replace(match=score(*list_judged_pairs(own)).astype(np.float64))
    costs = {name: measure_costs(score, name, matches[name].rows, most) for name in DIRECTIONS}
    ranks = _rank_true_items(own)
    ranks_before = _rank_true_items(before) if has_own_towers(model) else ranks
    return ScoredSet(own, most, ranks, ranks_before, matches, costs)


def _rank_true_items(own: EmbeddedSet) -> dict[str, TrueRanks]:
    return {name: TrueRanks(*rank_true_items(own.make_task(direction))) for name, direction in DIRECTIONS.items()}


def measure_costs(score: Score, direction: str, rows: Rows, most: int) -> dict[int, float]:
    """Return depth -> milliseconds per query on this machine, by some queries; tokens are there already.

    rows [Q, k]: the first answers of each query.
    """
    costs, timed = {}, rows[:QUERIES_TIMED]
    for depth in list_depths(most):
        began = time.perf_counter()
        score(*list_pairs(direction, timed[:, :depth]))
        costs[depth] = 1000 * (time.perf_counter() - began) / len(timed)
    return costs
