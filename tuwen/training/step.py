"""One step on tensors, in one process or many: features, loss, gradients, update.

Shapes: b pairs of this process, B of all processes, D dimensions.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tuwen.core.errors import UserError
from tuwen.core.progress import say
from tuwen.model.device import choose_device, has_bf16
from tuwen.model.dual_encoder import MAX_SCALE, DualEncoder
from tuwen.training import distributed, gradcache, optim
from tuwen.training.loss import contrastive_loss, same_id

if TYPE_CHECKING:  # pyarrow and pydantic are not needed to step on tensors
    from tuwen.core.params import Fit
    from tuwen.training.loader import Batch

TEXT_PARTS = 8  # a caption is padded to the longest of its eighth of the batch


def prepare_model(model: DualEncoder, fit: "Fit") -> None:
    """Put the model where it is trained, as `fit` says. Raises UserError where it or the processes do not fit."""
    if fit.batch_size % distributed.count_ranks():
        raise UserError(
            f"params.yaml: baseline.fit or finetune.fit: batch_size: {fit.batch_size} cannot be shared evenly by "
            f"{distributed.count_ranks()} processes; take a multiple of that"
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA is deterministic with this alone
    torch.use_deterministic_algorithms(True)
    # a debugging aid that costs time; torch makes the attribute as it starts, so mypy does not know it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    model.to(choose_device())
    if fit.precision == "bf16" and not has_bf16(choose_device()) and distributed.is_first():
        say("this machine has no bf16 units: fp32 instead")
    optim.freeze(model, fit.freeze)
    if fit.chunk is not None:
        gradcache.refuse_batch_norm(model, f"params.yaml: baseline.fit or finetune.fit: chunk: {fit.chunk}")
    if distributed.count_ranks() > 1:
        gradcache.refuse_batch_norm(model, f"TUWEN_GPUS: {distributed.count_ranks()} processes")
    if fit.gradient_checkpointing:
        model.set_gradient_checkpointing(True)
    if fit.compile:
        model.image_tower.compile()
        model.text_tower.compile()


def step(
    model: DualEncoder, optimizers: list[torch.optim.Optimizer], batch: "Batch", factor: float, fit: "Fit"
) -> float:
    """One step on `batch` at `factor` of the peak learning rates; returns the loss before it (nats).

    batch: this process's share of the step's pairs. Where the loss or its gradient is not finite, the weights stay
    as they are and the loss comes back as NaN.
    """
    loss = backward(model, batch, fit)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), fit.max_grad_norm)
    value, length = torch.stack([loss, norm]).tolist()
    if math.isfinite(value) and math.isfinite(length):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            optimizer.step()
        with torch.no_grad():
            model.log_scale.clamp_(0, math.log(MAX_SCALE))
    else:
        value = math.nan
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    return float(value)


def backward(model: DualEncoder, batch: "Batch", fit: "Fit") -> Tensor:
    """Give every parameter the gradient of the whole batch's mean loss, in all processes; returns that loss."""
    optim.set_modes(model, fit.freeze)
    where = choose_device()
    lengths = batch.mask.sum(1).cpu()  # before anything is queued on a GPU, which to ask it would wait for
    pixels, ids, mask, positive_id, caption_id = (column.to(where, non_blocking=True) for column in batch[:5])
    positive_bB = _positives(torch.stack([positive_id, caption_id], dim=1), fit)
    pictures = _picture_pieces(model, pixels, fit)
    captions, back = _caption_pieces(model, ids, mask, lengths, fit)
    with _attention(where):
        if fit.chunk is None:
            image_bD = torch.cat([piece() for piece in pictures])
            text_bD = torch.cat([piece() for piece in captions])[back]
            loss = _loss(model, image_bD, text_bD, positive_bB)
            torch.autograd.backward(loss)
        else:
            loss = _backward_cached(model, pictures, captions, back, positive_bB, fit)
    distributed.average_gradients(model.parameters())
    return distributed.average(loss.detach())


def _backward_cached(
    model: DualEncoder,
    pictures: list[gradcache.Piece],
    captions: list[gradcache.Piece],
    back: Tensor,
    positive_bB: Tensor,
    fit: "Fit",
) -> Tensor:
    image_bD, image_states = gradcache.first_pass(pictures)
    text_bD, text_states = gradcache.first_pass(captions)
    loss = _loss(model, image_bD, text_bD[back], positive_bB)
    torch.autograd.backward(loss)
    assert image_bD.grad is not None
    assert text_bD.grad is not None
    if fit.freeze != "image":
        gradcache.second_pass(pictures, image_bD.grad, image_states)
    if fit.freeze != "text":
        gradcache.second_pass(captions, text_bD.grad, text_states)
    return loss


def _loss(model: DualEncoder, image_bD: Tensor, text_bD: Tensor, positive_bB: Tensor) -> Tensor:
    """The mean over this process's rows, each told apart from the rows of all processes."""
    if distributed.count_ranks() == 1:
        return contrastive_loss(image_bD, text_bD, model.scale, positive_bB)
    image_BD, text_BD = distributed.gather(image_bD), distributed.gather(text_bD)
    return contrastive_loss(image_bD, text_bD, model.scale, positive_bB, image_BD, text_BD)


def _positives(ids_b2: Tensor, fit: "Fit") -> Tensor:
    """[b, B] bool: which rows of all processes belong to each row of this one."""
    if fit.siblings == "negatives":
        rows = len(ids_b2)
        own = torch.arange(
            distributed.get_rank() * rows, (distributed.get_rank() + 1) * rows, device=ids_b2.device
        )
        return same_id(own, torch.arange(distributed.count_ranks() * rows, device=ids_b2.device))
    all_B2 = distributed.gather(ids_b2)
    return same_id(ids_b2[:, 0], all_B2[:, 0]) | same_id(ids_b2[:, 1], all_B2[:, 1])


def _picture_pieces(model: DualEncoder, pixels: Tensor, fit: "Fit") -> list[gradcache.Piece]:
    def encode(part: Tensor) -> Callable[[], Tensor]:
        def piece() -> Tensor:
            with _precision(fit):
                return model.encode_image(part)

        return piece

    return [encode(part) for part in torch.split(pixels, fit.chunk or len(pixels))]


def _caption_pieces(
    model: DualEncoder, ids: Tensor, mask: Tensor, lengths: Tensor, fit: "Fit"
) -> tuple[list[gradcache.Piece], Tensor]:
    """Pieces of about one length, so that short captions are not padded to the longest, and the way back."""

    def encode(*given: Tensor) -> Callable[[], Tensor]:
        def piece() -> Tensor:
            with _precision(fit):
                return model.encode_text(*given)

        return piece

    order = lengths.argsort(stable=True)
    size = -(-len(order) // TEXT_PARTS)
    given: list[tuple[Tensor, ...]] = []
    for rows in torch.split(order, min(size, fit.chunk or size)):
        here, longest = rows.to(ids.device), int(lengths[rows[-1]])
        given.append((ids[here, :longest], mask[here, :longest]))
    if fit.chunk is None:  # looked up together: each look-up has a gradient as large as the whole table
        words = model.words(torch.cat([ids_bL.flatten() for ids_bL, _ in given]))
        split = torch.split(words, [ids_bL.numel() for ids_bL, _ in given])
        given = [(*one, word.view(*one[0].shape, -1)) for one, word in zip(given, split, strict=True)]
    return [encode(*one) for one in given], order.argsort().to(ids.device)


@contextlib.contextmanager
def _precision(fit: "Fit") -> Iterator[None]:
    # entered anew for each piece: autocast keeps cast weights, and those of a pass without a graph have none
    where = choose_device()
    with torch.autocast(where, torch.bfloat16, enabled=fit.precision == "bf16" and has_bf16(where)):
        yield


@contextlib.contextmanager
def _attention(where: str) -> Iterator[None]:
    # On CPU the backward pass of the fused attention takes five times the plain one's at these lengths, and the
    # plain one would compute bf16 in fp32, at a fifth of the step (docs/log.md); on a GPU the fused one is right.
    # Around both passes: a checkpointed layer runs in both.
    if where != "cpu":
        yield
        return
    switches: Any = torch.backends.cuda  # named after CUDA, and asked on CPU too
    kept = switches.fp16_bf16_reduction_math_sdp_allowed()
    switches.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        switches.allow_fp16_bf16_reduction_math_sdp(kept)
