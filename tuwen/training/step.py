"""One step on tensors, in one process or many: features, loss, gradients, update.

Shapes: b pairs of this process, B of all processes, L tokens, D dimensions.
"""

import math
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tuwen.core.errors import UserError
from tuwen.core.progress import say
from tuwen.data.formats.tokens.padding import group_by_length
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import MAX_SCALE, DualEncoder
from tuwen.model.precision import choose_precision, set_attention, set_float32_products, set_precision
from tuwen.training import distributed, gradcache, optim
from tuwen.training.engines.batch_norm import convert_batch_norm
from tuwen.training.engines.local import clip_gradients
from tuwen.training.engines.loss_scale import LossScale
from tuwen.training.engines.replicas import Alone, GradientEngine, make_replicas
from tuwen.training.loss import (
    LossOfVectors,
    compare_ids,
    compute_contrastive_loss,
    compute_sigmoid_loss,
    nest_loss,
    require_prefixes,
)
from tuwen.training.negatives.alike import Alike

if TYPE_CHECKING:  # pyarrow and pydantic are not needed to step on tensors
    from tuwen.core.params import Fit, Loop
    from tuwen.training.loader import Batch


def prepare_model(model: DualEncoder, fit: "Fit") -> GradientEngine:
    """Move the model to its device and set it and torch up as `fit` says; return what runs its passes.

    Raises UserError as `prepare_torch` and `require_prefixes`, or where a BatchNorm would see parts of a batch.
    """
    prepare_torch(fit, "baseline.fit or finetune.fit")
    require_prefixes(fit.matryoshka, model)
    model.to(choose_device())
    optim.freeze(model, fit.freeze)
    if fit.chunk is not None:
        gradcache.refuse_batch_norm(model, f"params.yaml: baseline.fit or finetune.fit: chunk: {fit.chunk}")
    if distributed.count_ranks() > 1:
        _share_batch_norm(model)
    if fit.gradient_checkpointing:
        model.set_gradient_checkpointing(True)
    if fit.compile:
        gradcache.compile_towers(model, fit.chunk)
    if fit.shard == "full" and distributed.count_ranks() > 1:
        from tuwen.training.engines.shards import Shards

        return Shards(model, fit.precision)
    return make_replicas(model)


def _share_batch_norm(model: DualEncoder) -> None:
    """Let every BatchNorm that is trained normalise by the rows of all processes. Refused where torch has none."""
    if choose_device() == "cpu":  # SyncBatchNorm has no kernel for it
        gradcache.refuse_batch_norm(model, f"TUWEN_GPUS: {distributed.count_ranks()} processes without a GPU")
    elif any(parameter.requires_grad for parameter in model.image_tower.parameters()):
        model.image_tower = convert_batch_norm(model.image_tower)


def prepare_torch(fit: "Loop", group: str) -> None:
    """Make torch compute as `fit` says. Raises UserError, naming `group`, where no batch can be shared evenly."""
    if fit.batch_size % distributed.count_ranks():
        raise UserError(
            f"params.yaml: {group}: batch_size: {fit.batch_size} cannot be shared evenly by "
            f"{distributed.count_ranks()} processes; take a multiple of that"
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA is deterministic with this alone
    torch.use_deterministic_algorithms(fit.deterministic)
    # a debugging aid that costs time; torch sets the attribute when it is imported, so mypy cannot see it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    set_float32_products(fit.precision)
    if (chosen := choose_precision(fit.precision)) != fit.precision and distributed.is_first():
        say(f"this machine has no {fit.precision} units: {chosen} instead")


def step(
    model: DualEncoder,
    optimizers: list[torch.optim.Optimizer],
    batch: "Batch",
    factor: float,
    fit: "Fit",
    engine: GradientEngine | None = None,
    scale: LossScale | None = None,
    alike: Alike | None = None,
) -> float:
    """Take one step on `batch`, this process's share of the step's pairs; otherwise as `move_weights`."""
    loss = compute_gradients(model, batch, fit, partial(compare_rows, model, alike=alike), engine, scale)
    value = move_weights(model, optimizers, loss, factor, fit, scale)
    clamp_temperature(model)
    return value


@torch.no_grad()
def clamp_temperature(model: DualEncoder) -> None:
    """Keep the temperature between the model's clamp, by default CLIP's, and 1."""
    model.log_scale.clamp_(0, math.log(getattr(model, "max_scale", MAX_SCALE)))


def move_weights(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    loss: Tensor,
    factor: float,
    fit: "Loop",
    scale: LossScale | None = None,
) -> float:
    """Move the weights by their gradients at `factor` of the peak learning rates; return the loss (nats).

    Where the loss or its gradient is not finite, the weights stay as they are and the loss comes back as NaN, but
    where `scale` takes the gradient for an overflow.
    """
    norm = clip_gradients(model.parameters(), fit.max_grad_norm)
    value, length = torch.stack([loss, norm]).tolist()
    overflow = scale is not None and scale.follow(length)
    if math.isfinite(value) and math.isfinite(length):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            optimizer.step()
    elif not overflow:
        value = math.nan
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    return float(value)


def compute_gradients(
    model: DualEncoder,
    batch: "Batch",
    fit: "Fit",
    compute_loss: LossOfVectors | None = None,
    engine: GradientEngine | None = None,
    scale: LossScale | None = None,
) -> Tensor:
    """Give every parameter the gradient of the whole batch's mean loss, in all processes; return that loss.

    compute_loss: of the vectors [b, D] of images and texts, and [b, B], which rows are positives; by default the
    contrastive loss; `fit.matryoshka` adds that of their first dimensions. engine: of `prepare_model`; by default
    that of one process. scale: by default none.
    """
    compute_loss = nest_loss(compute_loss or partial(compare_rows, model), fit.matryoshka)
    engine, scale = engine or Alone(), scale or LossScale("fp32")
    optim.set_modes(model, fit.freeze)
    device = choose_device()
    mask = batch.mask.cpu()  # read here, so that nobody waits for a GPU to see what is padding
    columns = (batch.pixels, batch.ids, batch.positive_id, batch.caption_id)
    pixels, ids, positive_id, caption_id = (column.to(device, non_blocking=True) for column in columns)
    positive_bB = find_positives(torch.stack([positive_id, caption_id], dim=1), fit.siblings)
    parts = torch.split(pixels, fit.chunk or len(pixels))
    images = [_make_piece(model.encode_image, fit, part) for part in parts]
    make_texts = partial(_make_text_pieces, model, ids, mask, fit)

    def compare_all() -> Tensor:
        image_bD = torch.cat([piece() for piece in images])
        texts, back = make_texts()  # after the images: so their tokens' gradient is there before the images' is
        return compute_loss(image_bD, torch.cat([piece() for piece in texts])[back], positive_bB)

    with set_attention(device):
        if fit.chunk is None:
            loss = engine.run(compare_all)
            torch.autograd.backward(scale.multiply(loss))
        else:
            loss = _compute_gradients_cached(compute_loss, images, make_texts(), positive_bB, fit, engine, scale)
    engine.finish_gradients()
    scale.divide_gradients(model.parameters())
    return distributed.average_over_ranks(loss.detach())


def _compute_gradients_cached(
    compute_loss: LossOfVectors,
    images: list[gradcache.Piece],
    texts_and_back: tuple[list[gradcache.Piece], Tensor],
    positive_bB: Tensor,
    fit: "Fit",
    engine: GradientEngine,
    scale: LossScale,
) -> Tensor:
    texts, back = texts_and_back
    image, text = gradcache.compute_features(images, engine), gradcache.compute_features(texts, engine)
    with engine.hold():
        loss = compute_loss(image.feature, text.feature[back], positive_bB)
        torch.autograd.backward(scale.multiply(loss))
    towers = {"image": image, "text": text}
    gradcache.propagate_gradients([tower for name, tower in towers.items() if name != fit.freeze], engine)
    return loss


def compare_rows(
    model: DualEncoder, image_bD: Tensor, text_bD: Tensor, positive_bB: Tensor, alike: Alike | None = None
) -> Tensor:
    """Return the mean loss of this process's rows against all but `alike`; by the sigmoid where it has a bias."""
    text_BD = distributed.gather_rows(text_bD)
    if (bias := getattr(model, "logit_bias", None)) is not None:  # a caller's own encoder has none
        return compute_sigmoid_loss(image_bD, text_BD, model.scale, bias, positive_bB, alike and alike.text)
    if distributed.count_ranks() == 1:
        return compute_contrastive_loss(image_bD, text_bD, model.scale, positive_bB, left_out=alike)
    image_BD = distributed.gather_rows(image_bD)
    return compute_contrastive_loss(image_bD, text_bD, model.scale, positive_bB, image_BD, text_BD, alike)


def find_positives(ids_b2: Tensor, siblings: str = "positives") -> Tensor:
    """Return bool [b, B]: which rows of all processes are positives of each row of this one.

    ids_b2: positive_id and caption_id. siblings: as `params.Fit.siblings` says.
    """
    if siblings == "negatives":
        rows, rank, device = len(ids_b2), distributed.get_rank(), ids_b2.device
        own = torch.arange(rank * rows, (rank + 1) * rows, device=device)
        return compare_ids(own, torch.arange(distributed.count_ranks() * rows, device=device))
    all_B2 = distributed.gather_rows(ids_b2)
    return compare_ids(ids_b2[:, 0], all_B2[:, 0]) | compare_ids(ids_b2[:, 1], all_B2[:, 1])


def _make_piece(encode: Callable[..., Tensor], fit: "Fit", *inputs: Tensor) -> gradcache.Piece:
    def piece() -> Tensor:
        with set_precision(fit.precision):
            return encode(*inputs)

    return piece


def _make_text_pieces(
    model: DualEncoder, ids: Tensor, mask: Tensor, fit: "Fit"
) -> tuple[list[gradcache.Piece], Tensor]:
    """Return pieces of texts of about one length, and the order that takes their rows back to the batch's."""
    groups, back = group_by_length(mask.sum(1), fit.chunk)
    inputs: list[tuple[Tensor, ...]] = [(ids[_send(rows, ids), :n], mask[rows, :n]) for rows, n in groups]
    # looked up together: each look-up has a gradient as large as the whole table
    if fit.chunk is None and model.takes_token_vectors:
        vectors = model.embed_tokens(torch.cat([ids_bL.flatten() for ids_bL, _ in inputs]))
        parts = torch.split(vectors, [ids_bL.numel() for ids_bL, _ in inputs])
        inputs = [(*one, part.view(*one[0].shape, -1)) for one, part in zip(inputs, parts, strict=True)]
    return [_make_piece(model.encode_text, fit, *one) for one in inputs], _send(back, ids)


def _send(rows: Tensor, to: Tensor) -> Tensor:
    return rows.to(to.device, non_blocking=True)
