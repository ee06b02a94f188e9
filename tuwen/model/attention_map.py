"""Which patches of an image each position of a text reads, where that speaks for a match.

The weights of the text's attention to the image, times the gradient of the match's log odds by them where that is
above 0; the mean of the heads, and the sum of the layers (as ALBEF draws its maps: Li et al. 2021, section 6.2).
`joint` has no cross-attention: there it is that part of its attention which goes from text to image.
Shapes: L positions of a text, K tokens of an image as they are stored, P as the tower gives them, N positions that
are read, Q that ask, C and W widths, H heads of E numbers, S patches a side.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tuwen.core.errors import UserError
from tuwen.model.cross_block import Attention, Memory
from tuwen.model.cross_encoder import MATCH, CrossEncoder


def map_attention(cross: CrossEncoder, image_PW: Tensor, text_LW: Tensor) -> Tensor:
    """Return for each position of the text a map over the patches, [L, S, S], nowhere below 0.

    cross: in evaluation mode. image_PW, text_LW: the tokens of one image and of one text, without padding, by
    `encode_image_tokens` and `encode_text_tokens`. The first token of an image stands for the whole of it, lies
    nowhere, and is left out. What a compressed token gets goes on to the tokens that it was made of, by the
    compressor's own attention. Raises UserError where there are no such maps.
    """
    if reason := explain_no_map(cross):
        raise UserError(f"cross_encoder.json: {reason}")
    side = math.isqrt(len(image_PW) - 1)
    attentions = [block.own if cross.fusion == "joint" else block.other for block in cross.text_blocks]
    outs = [attention.out for attention in attentions]
    with torch.enable_grad(), _keep_inputs(attentions) as read, _keep_inputs(outs) as attended:
        text_1LW = text_LW[None].detach().requires_grad_()  # a gradient needs a leaf, even if no weight has one
        stored_1KC = cross.compress_image(image_PW[None].detach())
        heads = cross(stored_1KC, text_1LW, text_1LW.new_ones(text_1LW.shape[:2])).heads
        log_odds = torch.stack([head_12[0, MATCH] - head_12[0, 1 - MATCH] for head_12 in heads]).sum()
        gradients = torch.autograd.grad(log_odds, [attended_1QW for (attended_1QW,) in attended])
        layers = zip(attentions, read, gradients, strict=True)
        maps_QN = [_weigh_read(attention, x, memory, gradient) for attention, (x, memory), gradient in layers]
        map_QN = torch.stack(maps_QN).sum(0)
    map_LK = map_QN[: len(text_LW), -stored_1KC.shape[1] :].detach()  # without a joint stream it is the whole
    if cross.compressor is not None:
        map_LK = map_LK @ _weigh_compressed(cross.compressor, image_PW)
    return map_LK[:, 1:].reshape(-1, side, side)


def explain_no_map(cross: CrossEncoder) -> str:
    """Return why a re-ranker of this form has no maps; empty where it has."""
    patches = cross.config["image"]["tokens"] - 1
    if math.isqrt(patches) ** 2 != patches:
        return f"a map needs patches in a square, and this picture tower has {patches}"
    if cross.config["layers"] < 2:
        return (
            "a map needs a re-ranker of two layers or more: the last judges by the first position of a caption "
            "alone, so what a word reads there does not count"
        )
    return ""


@contextmanager
def _keep_inputs(modules: Sequence[nn.Module]) -> Iterator[list[Any]]:
    """Keep what each module is given, a tuple, in the order in which they run inside."""
    inputs = list[Any]()
    hooks = [module.register_forward_pre_hook(lambda _, given: inputs.append(given)) for module in modules]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def _weigh_read(attention: Attention, x_1QW: Tensor, memory: Memory, gradient_1QW: Tensor) -> Tensor:
    """Return weight × gradient by it, [Q, N]; gradient_1QW is that by the weighted sums of values."""
    gradient_HQE = gradient_1QW.reshape(*x_1QW.shape[:2], attention.heads, -1)[0].transpose(0, 1)
    by_weight_HQN = gradient_HQE @ memory.value[0].mT
    return torch.mean(attention.weigh(x_1QW, memory)[0] * by_weight_HQN.relu(), 0)


@torch.no_grad()
def _weigh_compressed(compressor: Any, image_PW: Tensor) -> Tensor:
    """Return of which tokens each compressed one was made, [K, P], rows of sum 1."""
    memory = compressor.attention.read(image_PW[None])
    weights_HKP: Tensor = compressor.attention.weigh(compressor.queries[None], memory)[0]
    return weights_HKP.mean(0)
