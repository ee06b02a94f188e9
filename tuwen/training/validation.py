"""hit@5 of a model under training on the valid set, in both directions over the full gallery."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tuwen.data.formats import pairs
from tuwen.model.dual_encoder import DualEncoder
from tuwen.retrieval.encode import embed_captions, embed_images, read_images
from tuwen.retrieval.metrics import compute_hits, judge_queries
from tuwen.retrieval.vectors import RetrievalTask
from tuwen.training.selection import Measured

K = 5


def on_set(folder: Path, size_px: int, batch_size: int) -> Callable[[DualEncoder, Any], Measured]:
    """What measures a model with its tokenizer on the set in `folder`; the pictures are decoded once."""
    pair_set = pairs.read_pair_set(folder)
    pictures = read_images(folder.parent.parent, pair_set, size_px)
    captions = pair_set.texts["caption"].to_pylist()
    image_row, text_row = pairs.find_true_rows(pair_set)
    picture_of_text = np.zeros(len(captions), np.int64)
    picture_of_text[text_row[::-1]] = image_row[::-1]  # of several, the first

    def measure(model: DualEncoder, tokenizer: Any) -> Measured:
        images = embed_images(model, pictures, batch_size)
        texts = embed_captions(model, tokenizer, captions, batch_size)
        i2t = judge_queries(RetrievalTask(images, texts, image_row, text_row), (K,))
        t2i = judge_queries(RetrievalTask(texts, images, text_row, image_row), (K,))
        shares, figures = np.zeros(len(pictures)), {}
        asked = (("i2t", i2t, i2t.query), ("t2i", t2i, picture_of_text[t2i.query]))
        for direction, judged, picture in asked:
            hit = compute_hits(judged, (K,))[:, 0]
            figures[f"valid_{direction}_hit_at_{K}"] = hit.mean().item()
            np.add.at(shares, picture, hit / len(hit) / len(asked))
        return Measured(figures, shares)

    return measure
