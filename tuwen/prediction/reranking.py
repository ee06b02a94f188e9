"""Whether and how the answers to the tasks are re-ranked: params.yaml's predict.rerank, and what valid says."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from tuwen.core.errors import UserError
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.text import load_tokenizer
from tuwen.model.reranker import has_reranker, load_reranker
from tuwen.retrieval.match_pairs import score_token_pairs, write_tokens
from tuwen.retrieval.rerank import TOKENS_WORK, embed_sides, has_own_towers, list_pair_sides, match_first, rerank
from tuwen.retrieval.rerank_choice import OrderChoice, read_choices
from tuwen.retrieval.vectors import Rows, Vectors


class Reordering(NamedTuple):
    """A re-ranker, and how it is used; a direction that `choices` lacks keeps the order of the cosine."""

    model: Path
    choices: Mapping[str, OrderChoice]


def choose_reordering(wanted: bool | Literal["auto"], model: Path, results: Path) -> Reordering | None:
    """Return how the answers are re-ranked by the model in the folder `model`; None where they are not.

    wanted: params.yaml's predict.rerank; auto takes a direction only where re-ranking raised the mean of R@k on
    valid beyond doubt. results: folder of what was measured of it. Raises UserError where it is wanted and there
    is no re-ranker, and as `read_choices`.
    """
    if wanted is False or (wanted == "auto" and not has_reranker(model)):
        return None
    if not has_reranker(model):
        raise UserError(
            f"params.yaml: predict.rerank is true, but {model} holds no re-ranker; give params.yaml: rerank its "
            "settings, or let predict.rerank be auto or false"
        )
    return Reordering(model, read_choices(results / "details.json", sure_alone=wanted == "auto"))


def answer_by_match(
    direction: str, queries: Vectors, gallery: Vectors, count: int, folder: Path, reordering: Reordering
) -> Rows:
    """Return the first `count` gallery rows per query, [Q, count], in the new order; more than that are scored.

    queries [Q, D], gallery [G, D]: of the set in `folder`, whose images and captions are read. A re-ranker whose
    towers were trained embeds both itself, and reads its own first answers.
    """
    reranker, way = load_reranker(reordering.model), DIRECTIONS[direction]
    choice = reordering.choices[direction]
    tokenizer = load_tokenizer(reordering.model / "vocab.txt")
    sides = list_pair_sides(reranker, folder)
    score = partial(score_token_pairs, reranker, write_tokens(reranker, tokenizer, sides, TOKENS_WORK))
    vectors = {way.queries: queries, way.gallery: gallery}
    if has_own_towers(reordering.model):
        vectors = embed_sides(reranker, tokenizer, sides)
    matches = match_first(score, vectors, max(count, choice.k), [direction])[direction]
    return rerank(matches, *choice)[:, :count]
