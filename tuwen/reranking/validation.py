"""What a re-ranker under training is worth on valid: hit@1 and hit@5 of its order, in both directions.

Shapes: I images, T texts, Q queries, k candidates of each, B pairs judged at once, D dimensions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tuwen.data.formats import pairs
from tuwen.data.formats.images import make_pixel_tensor
from tuwen.data.formats.text import tokenize
from tuwen.model.cross_encoder import CrossEncoder
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder
from tuwen.retrieval.encode import read_images
from tuwen.retrieval.metrics import judge_answers
from tuwen.retrieval.vectors import RetrievalTask, Rows
from tuwen.training.selection import Measured

KS = (1, 5)
ENCODED_AT_ONCE, JUDGED_AT_ONCE = 64, 1024


class EncodedSet(NamedTuple):
    """A set's vectors and tokens, kept on the CPU: the towers are frozen, so they are computed once."""

    image_ID: Tensor
    tokens_IPC: Tensor
    text_TD: Tensor
    states_TLW: Tensor
    mask_TL: Tensor


def make_rerank_validator(
    folder: Path, dual: DualEncoder, tokenizer: Any, k: int
) -> Callable[[CrossEncoder], Measured]:
    """Return a function that measures a cross encoder on the set in `folder`, over the first k of `dual`.

    The criterion is the mean of the two hit@1. A text's share of it goes to its image, the first of several.
    """
    pair_set = pairs.read_pair_set(folder)
    image_P, text_P = pairs.find_true_rows(pair_set)
    pixels = read_images(folder.parent.parent, pair_set, dual.config["image"]["size_px"])
    captions = pair_set.texts["caption"].to_pylist()
    image_of_text = np.zeros(len(captions), np.int64)
    image_of_text[text_P[::-1]] = image_P[::-1]
    encoded = _encode_set(dual, tokenizer, pixels, captions)

    def measure(cross: CrossEncoder) -> Measured:
        i2t, t2i = _order_answers(cross, encoded, min(k, len(captions)), min(k, len(pixels)))
        shares_I, figures = np.zeros(len(pixels)), dict[str, float]()
        nothing = np.zeros((0, 0), np.float32)
        for name, answers, query, item in (("i2t", i2t, image_P, text_P), ("t2i", t2i, text_P, image_P)):
            judged = judge_answers(RetrievalTask(nothing, nothing, query, item), answers, (1,))
            hits = {at: judged.best_rank <= at for at in KS}
            figures |= {f"valid_{name}_hit_at_{at}": float(hit.mean()) for at, hit in hits.items()}
            images = judged.query if name == "i2t" else image_of_text[judged.query]
            np.add.at(shares_I, images, hits[1] / len(hits[1]) / 2)
        return Measured(figures, shares_I)

    return measure


@torch.inference_mode()
def _encode_set(dual: DualEncoder, tokenizer: Any, pixels: list[Any], captions: list[str]) -> EncodedSet:
    device = choose_device()
    dual = dual.to(device).eval()
    images, texts = [], []
    for start in range(0, len(pixels), ENCODED_AT_ONCE):
        block = make_pixel_tensor(pixels[start : start + ENCODED_AT_ONCE]).to(device)
        images.append([one.cpu() for one in dual.encode_image_tokens(block)])
    ids_TL, mask_TL = tokenize(tokenizer, captions, dual.config["text"]["max_tokens"])
    for ids, mask in zip(*(torch.split(rows, ENCODED_AT_ONCE) for rows in (ids_TL, mask_TL)), strict=True):
        texts.append([one.cpu() for one in dual.encode_text_tokens(ids.to(device), mask.to(device))])
    image_ID, tokens_IPC = (torch.cat(parts) for parts in zip(*images, strict=True))
    text_TD, states_TLW = (torch.cat(parts) for parts in zip(*texts, strict=True))
    return EncodedSet(image_ID, tokens_IPC, text_TD, states_TLW, mask_TL)


@torch.inference_mode()
def _order_answers(cross: CrossEncoder, encoded: EncodedSet, texts: int, images: int) -> tuple[Rows, Rows]:
    """Return the first `texts` of each image and the first `images` of each text, in the cross encoder's order.

    By the probability of a match + the cosine, as R2D2 does.
    """
    cross.eval()
    cosine_IT = encoded.image_ID @ encoded.text_TD.T
    near_text, near_image = cosine_IT.topk(texts, 1).indices, cosine_IT.topk(images, 0).indices
    wanted_IT = torch.zeros(cosine_IT.shape, dtype=torch.bool).scatter_(1, near_text, True)
    wanted_IT.scatter_(0, near_image, True)
    image_N, text_N = wanted_IT.nonzero(as_tuple=True)  # by image: its tokens are read once
    score_IT = cosine_IT.clone()
    for image, text in zip(*(torch.split(rows, JUDGED_AT_ONCE) for rows in (image_N, text_N)), strict=True):
        score_IT[image, text] += _judge_pairs(cross, encoded, image, text)
    i2t = near_text.gather(1, score_IT.gather(1, near_text).argsort(stable=True, dim=1, descending=True))
    t2i = near_image.gather(0, score_IT.gather(0, near_image).argsort(stable=True, dim=0, descending=True))
    return i2t.numpy(), t2i.T.numpy()


def _judge_pairs(cross: CrossEncoder, encoded: EncodedSet, image_B: Tensor, text_B: Tensor) -> Tensor:
    device = choose_device()
    images, own_B = torch.unique_consecutive(image_B, return_inverse=True)
    stored = cross.compress_image(encoded.tokens_IPC[images].to(device))
    mask_BL = encoded.mask_TL[text_B]
    length = int(mask_BL.sum(1).max())
    states_BLW = encoded.states_TLW[text_B, :length].to(device)
    return cross.score_pairs(stored, states_BLW, mask_BL[:, :length].to(device), own_B.to(device)).cpu()
