"""Pairs that the start model holds for as alike as the true ones: `siblings: masked` leaves them out of the loss.

A copy of the model as it was before the first step looks at every batch. So it knows each view that is shown, no
pass over the data comes before the training, and a resumed training needs nothing from its checkpoint.
Shapes: b pairs of this process, B of all processes, D dimensions.
"""

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from tuwen.model.device import choose_device
from tuwen.model.precision import set_precision
from tuwen.training import distributed

if TYPE_CHECKING:  # pydantic is not needed to step on tensors
    from tuwen.core.params import Fit
    from tuwen.training.loader import Batch


class Alike(NamedTuple):
    """What is as alike as the true pairs, bool [b, B]: texts of all to own images, images of all to own texts."""

    text: Tensor
    image: Tensor


def copy_start(model: nn.Module, fit: "Fit") -> Any:
    """Return a copy of the model that stays as it is, in evaluation mode; None unless `fit.siblings` is masked."""
    if fit.siblings != "masked":
        return None
    return copy.deepcopy(model).eval().requires_grad_(False).to(choose_device())


@torch.no_grad()
def embed_batch(model: Any, batch: "Batch", fit: "Fit") -> tuple[Tensor, Tensor]:
    """Return a model's vectors [b, D] of a batch's images and texts, without a graph, `fit.chunk` rows at once."""
    device, chunk = choose_device(), fit.chunk or len(batch.pixels)
    pixels, ids, mask = (column.to(device, non_blocking=True) for column in batch[:3])
    with set_precision(fit.precision):
        images = [model.encode_image(part) for part in torch.split(pixels, chunk)]
        parts = zip(torch.split(ids, chunk), torch.split(mask, chunk), strict=True)
        texts = [model.encode_text(*part) for part in parts]
    return torch.cat(images), torch.cat(texts)


@torch.no_grad()
def find_alike(image_bD: Tensor, text_bD: Tensor, margin: float) -> Alike:
    """Return which other pairs' cosine is that of both true pairs, less `margin`, or more.

    An image and a text of two pairs are alike if neither the image's own text nor the text's own image is nearer
    by more than `margin`. A negative margin asks them to be nearer than both.
    """
    image_BD, text_BD = distributed.gather_rows(image_bD), distributed.gather_rows(text_bD)
    own_b, own_B = (image_bD * text_bD).sum(1), (image_BD * text_BD).sum(1)
    bar_bB = torch.maximum(own_b[:, None], own_B) - margin
    return Alike(image_bD @ text_BD.T >= bar_bB, text_bD @ image_BD.T >= bar_bB)
