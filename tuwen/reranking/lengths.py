"""The cross encoder's pass over pairs whose texts are padded to the longest of about their length alone.

A batch's longest caption is some times the mean one, and what the text's stream costs grows with its padding.
Shapes: I images of P tokens of width C, Q pairs, L tokens of a text, W width.
"""

import torch
from torch import Tensor

from tuwen.data.formats.tokens.padding import group_by_length
from tuwen.model.cross_encoder import CrossEncoder, CrossOutput
from tuwen.reranking.encoded import extend_texts


def read_by_length(
    cross: CrossEncoder, tokens_IPC: Tensor, text_QLW: Tensor, mask_QL: Tensor, image_Q: Tensor
) -> CrossOutput:
    """Return what `cross` says of the pairs, but for the states of the images: zeros stand where texts are padded.

    tokens_IPC: of images as their tower gives them. image_Q: the row of `tokens_IPC` of each pair.
    """
    images = cross.read_images(cross.compress_image(tokens_IPC))
    here, back = group_by_length(mask_QL.sum(1).cpu())
    groups = [(rows.to(mask_QL.device, non_blocking=True), n) for rows, n in here]
    read = [cross(images, text_QLW[rows, :n], mask_QL[rows, :n], image_Q[rows]) for rows, n in groups]
    return CrossOutput(
        match=torch.cat([one.match for one in read])[back],
        text=torch.cat([extend_texts(one.text, text_QLW.shape[1]) for one in read])[back],
        image=None,
        feature=torch.cat([one.feature for one in read])[back],
        heads=tuple(torch.cat(parts)[back] for parts in zip(*(one.heads for one in read), strict=True)),
    )
