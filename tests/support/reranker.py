"""A small re-ranker with random weights whose streams read each other, and a few images and captions for it."""

from pathlib import Path

import numpy as np
import torch

from tests.support.small_model import write_small_model
from tests.support.weights import stir
from tuwen.data.formats.text import make_tokenizer
from tuwen.model import architectures
from tuwen.model.dual_encoder import DualEncoder, load_model
from tuwen.model.reranker import ReRanker, make_cross_encoder, save_reranker
from tuwen.retrieval.match_pairs import PairSides

CAPTIONS = ["一只白猫趴在窗台上", "", "雨后的街道", "大熊猫吃竹子", "海边的日落", "红色的自行车停在路边"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set("".join(CAPTIONS)))]
SIZE_PX = 16
TOKENIZER = make_tokenizer(VOCABULARY)
SETTINGS = {"layers": 2, "width": 64, "heads": 1, "mlp": 256, "dropout": 0.1, "image_tokens": None}


def make_reranker(fusion: str = "both", **settings: object) -> ReRanker:
    """Make one over two small towers."""
    torch.manual_seed(0)
    image, text = architectures.make_vit_config(SIZE_PX, 8, 64, 1), architectures.make_bert_config(64, 2, 12, 16)
    dual = DualEncoder({"dim": 16, "image": image, "text": text, "vocabulary": len(VOCABULARY)})
    cross = make_cross_encoder(dual, {"fusion": fusion, **SETTINGS, **settings})
    return ReRanker(stir(dual), stir(cross))


def write_small_reranker(folder: Path, layers: int = 2) -> Path:
    """Write the dual encoder of small_model.py with layers over it, and return the folder."""
    write_small_model(folder)
    torch.manual_seed(1)
    cross = make_cross_encoder(load_model(folder), {"fusion": "text_image", **SETTINGS, "layers": layers})
    save_reranker(stir(cross), folder, folder)
    return folder


def make_sides(images: int) -> PairSides:
    """Draw images, and take the captions."""
    draw = np.random.default_rng(0)
    squares = [draw.integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8) for _ in range(images)]
    return PairSides(range(images), squares.__getitem__, CAPTIONS)
