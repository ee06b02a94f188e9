"""What the dual encoder says of a batch, and the pairs that are made of it to be judged.

Shapes: b rows of this process, B of all processes, N negatives of a row, L tokens of a text, P of an image with C
numbers each, W width of a text's states, D dimensions, I images, Q pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tuwen.data.formats.tokens.padding import group_by_length
from tuwen.model.dual_encoder import DualEncoder
from tuwen.reranking.negatives import draw_negatives
from tuwen.training import distributed


class Encoded(NamedTuple):
    """Unit vectors [b, D], tokens [b, P, C] and states [b, L, W] of the rows of a batch.

    seen, shown: vectors and states of the texts as the re-ranker sees them, some words hidden. text, whole: those
    of the whole texts; the same where no word is hidden, or nothing asks for them.
    """

    image: Tensor
    tokens: Tensor
    text: Tensor
    whole: Tensor
    seen: Tensor
    shown: Tensor
    mask: Tensor  # [b, L]


class JudgedPairs(NamedTuple):
    """Q = (1 + 2N) b pairs to be judged: b positives, then N texts for each image, then N images for each text."""

    tokens: Tensor  # [I, P, C]
    image: Tensor  # [Q] rows of `tokens`
    text: Tensor  # [Q, L, W]
    mask: Tensor  # [Q, L]
    label: Tensor  # [Q] 1 for the positives
    counted: Tensor  # [Q] bool: False for the pairs of a row that has no negative


def encode_batch(
    dual: DualEncoder,
    pixels: Tensor,
    ids_bL: Tensor,
    mask_bL: Tensor,
    shown_ids_bL: Tensor,
    *,
    whole: bool = True,
) -> Encoded:
    """Encode images and texts with hidden words; `shown_ids_bL` may be `ids_bL` itself.

    whole: encode the whole texts too, where words are hidden.
    """
    image_bD, tokens_bPC = dual.encode_image_tokens(pixels)
    seen_bD, shown_bLW = _encode_texts(dual, shown_ids_bL, mask_bL)
    text_bD, whole_bLW = seen_bD, shown_bLW
    if whole and shown_ids_bL is not ids_bL:
        text_bD, whole_bLW = _encode_texts(dual, ids_bL, mask_bL)
    return Encoded(image_bD, tokens_bPC, text_bD, whole_bLW, seen_bD, shown_bLW, mask_bL)


def _encode_texts(dual: DualEncoder, ids_bL: Tensor, mask_bL: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `encode_text_tokens` does, of texts that are padded to the longest of about their length."""
    groups, back = group_by_length(mask_bL.sum(1).cpu())
    token_bLW = dual.embed_tokens(ids_bL)  # together: a look-up's gradient is as large as the whole table
    vectors, states = [], []
    for here, longest in groups:
        rows = here.to(ids_bL.device, non_blocking=True)
        vector_gD, state_gLW = dual.encode_text_tokens(
            ids_bL[rows, :longest], mask_bL[rows, :longest], token_bLW[rows, :longest]
        )
        vectors.append(vector_gD)
        states.append(extend_texts(state_gLW, ids_bL.shape[1]))
    return torch.cat(vectors)[back], torch.cat(states)[back]


def extend_texts(state_BLW: Tensor, length: int) -> Tensor:
    """Add zeros up to `length` positions."""
    return functional.pad(state_BLW, (0, 0, 0, length - state_BLW.shape[1]))


def join_negatives(encoded: Encoded, scale: Tensor, positive_bB: Tensor, uniform_b2N: Tensor) -> JudgedPairs:
    """Return the batch's pairs and hard negatives for them, from the rows of all processes.

    scale: of the cosines before the softmax by which negatives are drawn. positive_bB: what fits each row.
    uniform_b2N: decides the draws: N texts for the row's image, N images for its text. Towers that are trained get
    their gradients from the pairs of all processes.
    """
    rows, count, device = len(encoded.image), uniform_b2N.shape[1] // 2, encoded.image.device
    with torch.no_grad():
        texts_bB = scale * encoded.image @ distributed.gather_rows(encoded.text).T
        images_bB = scale * encoded.text @ distributed.gather_rows(encoded.image).T
    text_bN = draw_negatives(texts_bB, positive_bB, uniform_b2N[:, :count]).to(device)
    image_bN = draw_negatives(images_bB, positive_bB, uniform_b2N[:, count:]).to(device)
    counted_b = (text_bN >= 0).all(1)  # the other draw lacks negatives where this one does: positives are mutual
    own_b, first = torch.arange(rows, device=device), distributed.get_rank() * rows
    again_M = own_b.repeat_interleave(count)
    text_Q = torch.cat([first + own_b, text_bN.clamp(min=0).flatten(), first + again_M])
    tokens, drawn_M = _collect_images(encoded.tokens, image_bN.clamp(min=0).flatten())
    length = max(distributed.gather_objects(encoded.shown.shape[1]))
    shown_BLW = distributed.gather_rows(extend_texts(encoded.shown, length))
    mask_BL = distributed.gather_rows(functional.pad(encoded.mask, (0, length - encoded.mask.shape[1])))
    return JudgedPairs(
        tokens,
        torch.cat([own_b, again_M, drawn_M]),
        shown_BLW[text_Q],
        mask_BL[text_Q],
        (torch.arange(len(text_Q), device=device) < rows).long(),
        torch.cat([counted_b, counted_b[again_M], counted_b[again_M]]),
    )


def _collect_images(tokens_bPC: Tensor, row_M: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens of images, the given rows of all processes among them, and where these stand."""
    if distributed.count_ranks() == 1:
        return tokens_bPC, row_M
    tokens_IPC = torch.cat([tokens_bPC, distributed.gather_rows(tokens_bPC)[row_M]])
    return tokens_IPC, len(tokens_bPC) + torch.arange(len(row_M), device=row_M.device)
