"""A re-ranker beside a gallery whose tokens are there already: what a served model needs to answer in its order.

Shapes: Q queries, k first answers of each.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

import numpy as np

from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.images import Pixels
from tuwen.data.formats.json_file import read_json, write_json
from tuwen.data.formats.text import load_tokenizer
from tuwen.model.reranker import ReRanker, load_reranker
from tuwen.retrieval.match_pairs import PairSides, PairTokens, score_token_pairs, write_tokens
from tuwen.retrieval.rerank import Matches, embed_sides, has_own_towers, list_pair_sides, list_pairs, rank_first
from tuwen.retrieval.rerank_choice import OrderChoice
from tuwen.retrieval.token_file import map_tokens
from tuwen.retrieval.vectors import Rows, Vectors

SETTINGS = "reranking.json"


class PackedReranker(NamedTuple):
    """A re-ranker, the tokens of a gallery of both kinds, and how many first answers it reorders by direction."""

    reranker: ReRanker
    tokenizer: Any
    tokens: PairTokens
    choices: Mapping[str, OrderChoice]


def pack_reranker(model: Path, folder: Path, choices: Mapping[str, OrderChoice], out: Path) -> None:
    """Write into `out` the tokens of the set in `folder` by the re-ranker in `model`, and how it is used.

    Where its towers were trained also `images.npy` and `texts.npy`, their vectors of the set.
    """
    reranker, tokenizer = load_reranker(model), load_tokenizer(model / "vocab.txt")
    sides = list_pair_sides(reranker, folder)
    if has_own_towers(model):
        for side, vectors in embed_sides(reranker, tokenizer, sides).items():
            np.save(out / f"{side}.npy", vectors)
    for side, file in write_tokens(reranker, tokenizer, sides, out)._asdict().items():
        file.tokens.tofile(out / f"{side}.f16")
        np.save(out / f"{side}.start.npy", file.start)
    write_json(out / SETTINGS, {name: choice._asdict() for name, choice in choices.items()})


def open_packed_reranker(model: Path, packed: Path) -> PackedReranker | None:
    """Open what `pack_reranker` wrote; None where there is none."""
    if not (packed / SETTINGS).is_file():
        return None
    reranker = load_reranker(model)
    widths = {"images": reranker.cross.stored_width, "texts": reranker.dual.config["text"]["width"]}
    files = {
        side: map_tokens(packed / f"{side}.f16", width, np.load(packed / f"{side}.start.npy"))
        for side, width in widths.items()
    }
    choices = {name: OrderChoice(**choice) for name, choice in read_json(packed / SETTINGS).items()}
    return PackedReranker(reranker, load_tokenizer(model / "vocab.txt"), PairTokens(**files), choices)


def rerank_found(
    packed: PackedReranker,
    direction: str,
    queries: Sequence[Any],
    decode: Callable[[Any], Pixels],
    found: tuple[Rows, Vectors],
) -> tuple[Rows, Vectors]:
    """Return `found`, gallery rows and cosines [Q, k] by the dual encoder, in the re-ranker's order.

    queries: texts for t2i, and for i2t what `decode` makes squares of. Only the first `choices[direction].k` move.
    """
    choice, (rows, cosine) = packed.choices[direction], found
    read = min(choice.k, rows.shape[1])
    of_texts = DIRECTIONS[direction].queries == "texts"
    asked = PairSides([], decode, list(queries)) if of_texts else PairSides(list(queries), decode, [])
    own = write_tokens(packed.reranker, packed.tokenizer, asked, Path(gettempdir()))
    sides = (packed.tokens.images, own.texts) if of_texts else (own.images, packed.tokens.texts)
    match = score_token_pairs(packed.reranker, PairTokens(*sides), *list_pairs(direction, rows[:, :read]))
    matches = Matches(rows[:, :read], cosine[:, :read], match.reshape(len(rows), read))
    place = np.tile(np.arange(rows.shape[1]), (len(rows), 1))
    place[:, :read] = rank_first(matches, read, choice.weight)
    return np.take_along_axis(rows, place, axis=1), np.take_along_axis(cosine, place, axis=1)
