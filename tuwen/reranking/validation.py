"""What a re-ranker under training is worth on valid: hit@1 and hit@5 of its order, in both directions.

Shapes: I images of valid.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tuwen.data.formats import pairs
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.images import Pixels
from tuwen.model.cross_encoder import CrossEncoder
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder
from tuwen.reranking.joint import JointModel, split_model
from tuwen.retrieval.encode import embed_captions, embed_images, read_images
from tuwen.retrieval.match_pairs import PairSides
from tuwen.retrieval.metrics import Judged, rank_true_items
from tuwen.retrieval.rerank import TOKENS_WORK, find_matches
from tuwen.retrieval.rerank_choice import OrderChoice, TrueRanks, judge_choice
from tuwen.retrieval.vectors import RetrievalTask, Rows, Vectors
from tuwen.training.selection import Measured

KS = (1, 5)
WEIGHT = 1.0  # of the cosine beside the probability of a match, as R2D2 has it; `evaluate` chooses its own
BATCH_SIZE = 64


def make_rerank_validator(
    folder: Path, dual: DualEncoder, tokenizer: Any, k: int
) -> Callable[[CrossEncoder | JointModel], Measured]:
    """Return a function that measures a model under training on the set in `folder`, over its towers' first k.

    dual: the towers of a cross encoder that is trained alone. The criterion is the mean of the two hit@1. A text's
    share of it goes to its image, the first of several. The images are decoded once, here; towers that stay as
    they are embed them once.
    """
    pair_set = pairs.read_pair_set(folder)
    image_P, text_P = pairs.find_true_rows(pair_set)
    pixels = read_images(folder.parent.parent, pair_set, dual.picture_rule)
    captions = pair_set.texts["caption"].to_pylist()
    image_of_text = np.zeros(len(captions), np.int64)
    image_of_text[text_P[::-1]] = image_P[::-1]  # of several, the first
    sides = PairSides(pixels, _keep_square, captions)

    vectors: dict[str, Vectors] = {}

    def measure(model: CrossEncoder | JointModel) -> Measured:
        reranker = split_model(model, dual)
        if isinstance(model, JointModel) or not vectors:
            towers = reranker.dual.to(choose_device())
            vectors["images"] = embed_images(towers, pixels, BATCH_SIZE)
            vectors["texts"] = embed_captions(towers, tokenizer, captions, BATCH_SIZE)
        images, texts = vectors["images"], vectors["texts"]
        tasks = {
            "i2t": RetrievalTask(images, texts, image_P, text_P),
            "t2i": RetrievalTask(texts, images, text_P, image_P),
        }
        found = find_matches(reranker, tokenizer, sides, vectors, k, list(DIRECTIONS), TOKENS_WORK)
        judged = {
            name: judge_choice(TrueRanks(*rank_true_items(tasks[name])), one, OrderChoice(k, WEIGHT), KS)
            for name, one in found.items()
        }
        return _measure(judged, image_of_text, len(pixels))

    return measure


def _measure(judged: dict[str, Judged], image_of_text: Rows, images: int) -> Measured:
    shares_I, figures = np.zeros(images), dict[str, float]()
    for name, one in judged.items():
        hits = {at: one.best_rank <= at for at in KS}
        figures |= {f"valid_{name}_hit_at_{at}": float(hit.mean()) for at, hit in hits.items()}
        own = one.query if name == "i2t" else image_of_text[one.query]
        np.add.at(shares_I, own, hits[1] / len(hits[1]) / len(judged))
    return Measured(figures, shares_I)


def _keep_square(square: Pixels) -> Pixels:
    return square
