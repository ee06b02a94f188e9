"""hit@5 of a model under training on the valid set, in both directions over the full gallery.

Shapes: G images of valid.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tuwen.data.formats import pairs
from tuwen.data.formats.picture_rule import PictureRule
from tuwen.model.dual_encoder import DualEncoder
from tuwen.retrieval.encode import (
    embed_captions,
    embed_images,
    pool_captions,
    pool_images,
    project_pooled,
    read_images,
)
from tuwen.retrieval.metrics import compute_hits, judge_queries
from tuwen.retrieval.vectors import RetrievalTask, Rows, Vectors
from tuwen.training.selection import Measured, Validator

HIT_K = 5


def make_validator(folder: Path, rule: PictureRule, batch_size: int, *, frozen: bool = False) -> Validator:
    """Return a function that measures a model and its tokenizer on the set in `folder`.

    rule: how these models see a picture. frozen: their towers differ in nothing, so that what these make of the
    set is computed once. The images are decoded once, here.
    """
    pair_set = pairs.read_pair_set(folder)
    pixels = read_images(folder.parent.parent, pair_set, rule)
    captions = pair_set.texts["caption"].to_pylist()
    image_row, text_row = pairs.find_true_rows(pair_set)

    pooled: list[Vectors] = []  # images and texts, where the towers are frozen

    def embed(model: DualEncoder, tokenizer: Any) -> tuple[Vectors, Vectors]:
        if not frozen:
            texts = embed_captions(model, tokenizer, captions, batch_size)
            return embed_images(model, pixels, batch_size), texts
        if not pooled:
            pooled.extend(
                (pool_images(model, pixels, batch_size), pool_captions(model, tokenizer, captions, batch_size))
            )
        return project_pooled(model, *pooled)

    def measure(model: DualEncoder, tokenizer: Any) -> Measured:
        return measure_vectors(*embed(model, tokenizer), image_row, text_row)

    return measure


def measure_vectors(images: Vectors, texts: Vectors, image_row: Rows, text_row: Rows) -> Measured:
    """Return hit@5 in both directions of unit vectors [G, D] and [T, D]; image_row, text_row [P]: the true pairs.

    A text's share of the criterion goes to its image, the first of several.
    """
    image_of_text = np.zeros(len(texts), np.int64)
    image_of_text[text_row[::-1]] = image_row[::-1]  # of several, the first
    i2t = judge_queries(RetrievalTask(images, texts, image_row, text_row), (HIT_K,))
    t2i = judge_queries(RetrievalTask(texts, images, text_row, image_row), (HIT_K,))
    shares_G, figures = np.zeros(len(images)), {}
    directions = (("i2t", i2t, i2t.query), ("t2i", t2i, image_of_text[t2i.query]))
    for direction, judged, image in directions:
        hit = compute_hits(judged, (HIT_K,))[:, 0]
        figures[f"valid_{direction}_hit_at_{HIT_K}"] = hit.mean().item()
        np.add.at(shares_G, image, hit / len(hit) / len(directions))
    return Measured(figures, shares_G)
