"""Pairs of an image and a text -> the probability that they match, by a cross encoder.

The tokens of each image and each text are computed once and lie in files (token_file.py). Pairs are read in the
order of their images, so that an image's tokens are read and projected once for all of its texts, in passes of a
fixed number of pairs: the bytes depend neither on the order in which pairs are given nor on the number of threads.
Shapes: P pairs, I images and T texts that occur in them, B of a block, K tokens of an image of width C as they are
stored, L tokens of a text, W width of the text tower.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tuwen.core.errors import UserError
from tuwen.core.progress import follow
from tuwen.data.formats.images import Pixels, make_pixel_tensor
from tuwen.model.device import choose_device
from tuwen.model.precision import set_inference_precision
from tuwen.model.reranker import ReRanker
from tuwen.retrieval.encode import stream_caption_blocks, stream_decoded
from tuwen.retrieval.token_file import TokenFile, Tokens, write_token_file
from tuwen.retrieval.vectors import Rows, Vectors

TOKEN_BATCH = 64
PASS_PAIRS = {"cpu": 32, "cuda": 512}  # pairs of one pass; more gain nothing on a CPU (docs/log.md)
READ_AHEAD = 8  # passes read while a GPU computes earlier ones


class PairSides(NamedTuple):
    """What pairs are made of: images, in a form that `decode` makes squares of, and captions."""

    images: Sequence[Any]
    decode: Callable[[Any], Pixels]
    captions: Sequence[str]


class PairTokens(NamedTuple):
    """The tokens of both sides."""

    images: TokenFile
    texts: TokenFile


def compute_matches(
    reranker: ReRanker, tokenizer: Any, sides: PairSides, image: Rows, text: Rows, work: Path
) -> Vectors:
    """Return the probability [P], float32, that `sides.images[image[p]]` and `sides.captions[text[p]]` match.

    A pair that is named twice is computed once. work: a folder for the files of tokens, 2 K C bytes an image and
    2 L W a text, as `write_token_file`. Raises UserError where an image cannot be decoded.
    """
    if not len(image):
        return np.empty(0, np.float32)
    (image_rows, image_P), (text_rows, text_P) = (np.unique(rows, return_inverse=True) for rows in (image, text))
    images, captions = [sides.images[row] for row in image_rows], [sides.captions[row] for row in text_rows]
    occurring = PairSides(images, sides.decode, captions)
    return score_token_pairs(reranker, write_tokens(reranker, tokenizer, occurring, work), image_P, text_P)


def write_tokens(reranker: ReRanker, tokenizer: Any, sides: PairSides, work: Path) -> PairTokens:
    """Write the tokens of all images and captions into the folder `work`; as `compute_matches` in all else."""
    work.mkdir(parents=True, exist_ok=True)
    for layers in reranker:
        layers.to(choose_device()).eval()
    return PairTokens(
        _write_images(reranker, sides, work),
        _write_texts(reranker, tokenizer, sides.captions, work),
    )


def score_token_pairs(reranker: ReRanker, tokens: PairTokens, image: Rows, text: Rows) -> Vectors:
    """Return the probability [P], float32, that image image[p] and text text[p] match, rows of `tokens`."""
    if not len(image):
        return np.empty(0, np.float32)
    base, device = int(text.max()) + 1, choose_device()
    key, place_P = np.unique(image * base + text, return_inverse=True)
    image_P, text_P = key // base, key % base
    passes = [slice(start, start + PASS_PAIRS[device]) for start in range(0, len(key), PASS_PAIRS[device])]
    read = partial(_read_pass, tokens, image_P, text_P)
    score = partial(_score_pass, reranker)
    scored = stream_decoded(reranker.cross, passes, read, score, 1, READ_AHEAD)
    found = np.concatenate(list(follow(scored, "match pairs", len(key), len)))
    return np.asarray(found[place_P])


def _read_pass(tokens: PairTokens, image_P: Rows, text_P: Rows, one: slice) -> list[Tensor]:
    """Return what `CrossEncoder.score_pairs` takes for one pass of B pairs; image_P ascends."""
    image_I, place_B = np.unique(image_P[one], return_inverse=True)
    stored_IKC, _ = tokens.images.read(image_I)
    return [stored_IKC, *tokens.texts.read(text_P[one]), torch.from_numpy(place_B)]


@torch.inference_mode()
def _score_pass(reranker: ReRanker, one: list[list[Tensor]]) -> Vectors:
    """Return the probabilities [B] of one pass; in bf16 on a GPU that has it."""
    device = choose_device()
    stored_IKC, text_BLW, mask_BL, image_B = (tensor.to(device, non_blocking=True) for tensor in one[0])
    with set_inference_precision():
        score_B = reranker.cross.score_pairs(stored_IKC.float(), text_BLW.float(), mask_BL, image_B)
    return np.asarray(score_B.cpu().numpy())


def _write_images(reranker: ReRanker, sides: PairSides, work: Path) -> TokenFile:
    dual, cross = reranker

    @torch.inference_mode()
    def encode(squares: list[Pixels]) -> tuple[Tokens, Rows]:
        _, tokens_BPW = dual.encode_image_tokens(make_pixel_tensor(squares).to(choose_device()))
        stored_BKC = cross.compress_image(tokens_BPW)
        return _halve(stored_BKC.flatten(0, 1)), np.full(len(stored_BKC), stored_BKC.shape[1])

    blocks = stream_decoded(dual, sides.images, sides.decode, encode, TOKEN_BATCH)
    return write_token_file(
        work, cross.stored_width, follow(blocks, "tokens of images", len(sides.images), _count_rows)
    )


def _write_texts(reranker: ReRanker, tokenizer: Any, captions: Sequence[str], work: Path) -> TokenFile:
    dual = reranker.dual

    @torch.inference_mode()
    def encode(ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tokens, Rows]:
        mask_BL = mask_BL.to(choose_device())
        _, tokens_BLW = dual.encode_text_tokens(ids_BL.to(choose_device()), mask_BL)
        return _halve(tokens_BLW[mask_BL.bool()]), mask_BL.sum(1).cpu().numpy()

    blocks = stream_caption_blocks(dual, tokenizer, captions, encode, TOKEN_BATCH)
    width = dual.config["text"]["width"]
    return write_token_file(work, width, follow(blocks, "tokens of texts", len(captions), _count_rows))


def _halve(tokens_TW: Tensor) -> Tokens:
    half_TW = tokens_TW.half()
    if not bool(half_TW.isfinite().all()):
        raise UserError(
            "the tokens of a tower hold NaN, or numbers over 65,504, which half precision has no place for; "
            "take a sound model, or one whose tower norms its tokens"
        )
    return np.asarray(half_TW.cpu().numpy())


def _count_rows(block: tuple[Tokens, Rows]) -> int:
    return len(block[1])
