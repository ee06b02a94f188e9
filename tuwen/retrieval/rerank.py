"""Re-ranking: the first k that the dual encoder finds, ordered anew by a cross encoder and the cosine.

The dual encoder's search is exact (search.py), and its order stands beyond k. An item's score is its probability
of a match plus a weight times its cosine, as in R2D2, whose weight is 1 (Xie et al. 2022, and its public code).
Equal scores stand in the order of the gallery.
Shapes: Q queries, I images, T texts, D dimensions, k items found for a query, P true pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.core.progress import follow
from tuwen.data.formats import manifest
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.json_file import read_json
from tuwen.model.device import choose_device
from tuwen.model.reranker import ReRanker
from tuwen.retrieval.encode import decode_row, list_image_rows, stream_caption_vectors, stream_vectors
from tuwen.retrieval.match_pairs import PairSides, compute_matches
from tuwen.retrieval.search import top_k
from tuwen.retrieval.vectors import Floats, Rows, Vectors

EMBED_BATCH = 64
TOKENS_WORK = Path(".cache/rerank")  # for the files of tokens, which may be larger than the memory
PRERANKER = "finetuned"  # whose answers are reordered: its name in manifests, and of its vectors' folder


class Matches(NamedTuple):
    """The first k gallery rows of each query, best cosine first; every field is [Q, k]."""

    rows: Rows
    cosine: Vectors
    match: Vectors  # probability that query and item match


class Reordered(NamedTuple):
    """The items found for one query, put in a new order; every field is [k]."""

    order: Rows  # the places that they have by the cosine, best first now
    match: Vectors  # the probability that query and item match, in the order of the cosine
    score: Floats  # what they are ordered by, best first


def read_depth(model: Path) -> int:
    """Return how many first answers the re-ranker in the folder `model` may reorder: its settings' k."""
    return int(read_json(model / "manifest.json")["params"]["rerank"]["k"])


def has_own_towers(model: Path) -> bool:
    """Return whether the towers of the re-ranker in the folder `model` were trained with it.

    Then its first answers are those of its own vectors (`embed_sides`), not of the model that it began from.
    """
    return bool(read_json(model / "manifest.json")["params"]["rerank"]["towers"] == "trained")


def embed_sides(reranker: ReRanker, tokenizer: Any, sides: PairSides) -> dict[str, Vectors]:
    """Return `images` [I, D] and `texts` [T, D], unit rows by the re-ranker's own towers."""
    dual = reranker.dual.to(choose_device())
    images = stream_vectors(dual, sides.images, sides.decode, EMBED_BATCH)
    texts = stream_caption_vectors(dual, tokenizer, sides.captions, EMBED_BATCH)
    none = np.empty((0, dual.config["dim"]), np.float32)
    return {
        "images": np.concatenate([none, *follow(images, "embed images", len(sides.images), len)]),
        "texts": np.concatenate([none, *follow(texts, "embed texts", len(sides.captions), len)]),
    }


def require_preranker(embedded: Path, model: Path) -> None:
    """Raise UserError unless the vectors in `embedded` are of the dual encoder that `model` began from."""
    found, expected = manifest.read_inputs(embedded).get("model"), manifest.read_inputs(model).get(PRERANKER)
    if found != expected:
        raise UserError(
            f"{embedded / manifest.MANIFEST}: made from another model: it names {found}, but {model} re-ranks "
            f"what {expected} finds; run `dvc repro`"
        )


def list_pair_sides(reranker: ReRanker, folder: Path) -> PairSides:
    """Return the images and captions of the set in `folder`, two levels below the data root."""
    from tuwen.data.formats import pairs  # not needed on a bare machine

    tables = pairs.read_pair_set(folder)
    captions = [caption or "" for caption in tables.texts["caption"].to_pylist()]
    decode = partial(decode_row, folder.parent.parent, reranker.dual.picture_rule)
    return PairSides(list_image_rows(tables), decode, captions)


def find_matches(
    reranker: ReRanker,
    tokenizer: Any,
    sides: PairSides,
    vectors: dict[str, Vectors],
    k: int,
    directions: Sequence[str],
    work: Path,
) -> dict[str, Matches]:
    """Return the first `k` by the cosine in each of `directions`, t2i or i2t, with their probabilities.

    vectors: `images` [I, D] and `texts` [T, D], unit rows of the sides by the dual encoder. Of a gallery of fewer
    than k items all are taken. A pair that both directions name is computed once. Raises UserError as
    `search.top_k` and `compute_matches`; work: as there.
    """
    return match_first(partial(compute_matches, reranker, tokenizer, sides, work=work), vectors, k, directions)


def match_first(
    score: Callable[[Rows, Rows], Vectors], vectors: Mapping[str, Vectors], k: int, directions: Sequence[str]
) -> dict[str, Matches]:
    """Return what `find_matches` does; score: image rows and text rows [P] -> probability [P]."""
    found = {}
    for name in directions:
        queries, gallery = (vectors[side] for side in (DIRECTIONS[name].queries, DIRECTIONS[name].gallery))
        found[name] = top_k(queries, gallery, min(k, len(gallery)) if len(gallery) else k)
    named = [list_pairs(name, rows) for name, (rows, _) in found.items()]
    image, text = (np.concatenate(side) for side in zip(*named, strict=True))
    match = score(image, text)
    ends = np.cumsum([rows.size for rows, _ in found.values()])[:-1]
    parts = zip(found.items(), np.split(match, ends), strict=True)
    return {name: Matches(rows, cosine, part.reshape(rows.shape)) for (name, (rows, cosine)), part in parts}


def list_pairs(direction: str, rows: Rows) -> tuple[Rows, Rows]:
    """Return the image and the text [Q k] of every item found."""
    queries = np.repeat(np.arange(len(rows)), rows.shape[1])
    return (queries, rows.ravel()) if direction == "i2t" else (rows.ravel(), queries)


def rerank(matches: Matches, k: int, weight: float) -> Rows:
    """Return the gallery rows of `matches` [Q, k'] in the new order: the first `k` by match + weight x cosine.

    Those beyond `k`, where more were found, keep the order of their cosines.
    """
    first = np.take_along_axis(matches.rows[:, :k], rank_first(matches, k, weight), axis=1)
    return np.concatenate([first, matches.rows[:, k:]], axis=1)


def rank_first(matches: Matches, k: int, weight: float) -> Rows:
    """Return the places [Q, k] that the first `k` by match + weight x cosine have by the cosine, best first."""
    return np.lexsort((matches.rows[:, :k], -score_first(matches, k, weight)), axis=1)


def score_first(matches: Matches, k: int, weight: float) -> Floats:
    """Return match + weight x cosine [Q, k] of the first `k` by the cosine."""
    return matches.match[:, :k].astype(np.float64) + weight * matches.cosine[:, :k].astype(np.float64)


def reorder_found(
    reranker: ReRanker, tokenizer: Any, sides: PairSides, rows: Rows, cosine: Vectors, weight: float
) -> Reordered:
    """Return the new order of the k items found for one query; weight: of the cosine.

    sides: the query alone on its side, on the other the items that stand in `rows` [k] of the gallery; cosine [k].
    Raises UserError where an image cannot be decoded.
    """
    image, text = np.broadcast_arrays(np.arange(len(sides.images)), np.arange(len(sides.captions)))
    match = compute_matches(reranker, tokenizer, sides, image, text, Path(gettempdir()))
    found = Matches(rows[None], cosine[None], match[None])
    order = rank_first(found, len(rows), weight)[0]
    return Reordered(order, match, score_first(found, len(rows), weight)[0][order])
