"""The loop: one for pre-training and fine-tuning. Knows neither tables nor tracking; resumes after a kill."""

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tuwen import manifest
from tuwen.errors import UserError
from tuwen.loss import contrastive_loss, same_id
from tuwen.model import MAX_SCALE, DualEncoder, device
from tuwen.progress import follow

if TYPE_CHECKING:  # pyarrow and pydantic are not needed to step on tensors
    from tuwen.feed import Batch
    from tuwen.params import Fit

Record = dict[str, float]
TEXT_PARTS = 8  # a caption is padded to the longest of its eighth of the batch
CHECKPOINTS = Path(".cache/train")
DECIDING_CODE = (
    *("embed", "feed", "images", "loss", "model", "models", "pairs", "recall", "remote", "search", "shapes"),
    *("shards", "start", "states", "stream", "text", "towers", "train", "views", "vit", "weights"),
    *("weights_cn_clip", "weights_hugging_face", "weights_open_clip"),
)


def train(
    model: DualEncoder,
    epoch_batches: Callable[[int], Iterator["Batch"]],
    steps_per_epoch: int,
    fit: "Fit",
    *,
    seed: int,
    checkpoint: Path,
    evaluate: Callable[[DualEncoder], Record],
    log: Callable[[Record, int], None],
) -> list[Record]:
    """Train `model` in place for `fit.epochs` and return one record per epoch.

    epoch_batches: epoch counted from 1 -> its batches. checkpoint: a folder; training goes on from the epoch
    found there. evaluate: figures on valid after each epoch. log: called with each record and its epoch.
    Raises UserError when the batches are empty or the loss is not finite.
    """
    if steps_per_epoch == 0:
        raise UserError(
            f"params.yaml: baseline.fit or finetune.fit: batch_size: {fit.batch_size} is more than the "
            "training rows; lower it or add data"
        )
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA is deterministic with this alone
    torch.use_deterministic_algorithms(True)
    # a debugging aid that costs time; torch makes the attribute as it starts, so mypy does not know it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    model.to(device())
    if fit.precision == "bf16" and not has_bf16(device()):
        print("this machine has no bf16 units: fp32 instead", flush=True)
    for parameter in model.text_parameters():
        parameter.requires_grad_(not fit.freeze_text)
    optimizers = make_optimizers(model, fit)
    records = _resume(checkpoint, model, optimizers)
    for epoch in range(len(records) + 1, fit.epochs + 1):
        losses: list[float] = []
        for batch in follow(epoch_batches(epoch), f"epoch {epoch}/{fit.epochs}", steps_per_epoch):
            done = (epoch - 1) * steps_per_epoch + len(losses)
            factor = schedule(done, fit.epochs * steps_per_epoch, fit.warmup_steps)
            losses.append(step(model, optimizers, batch, factor, fit))
            if not math.isfinite(losses[-1]):
                raise UserError(
                    f"epoch {epoch}, step {len(losses)}: the loss is {losses[-1]}; lower lr in this stage's fit"
                )
        record = {"loss": sum(losses) / len(losses), "lr": fit.lr * factor, "temperature": 1 / model.scale.item()}
        record |= evaluate(model)
        records.append({"epoch": epoch, **{name: round(value, 6) for name, value in record.items()}})
        print(_line(records[-1], fit.epochs), flush=True)
        log(records[-1], epoch)
        _save(checkpoint, model, optimizers, records)
    return records


def step(
    model: DualEncoder, optimizers: list[torch.optim.Optimizer], batch: "Batch", factor: float, fit: "Fit"
) -> float:
    """One step on `batch` at `factor` of the peak learning rates; returns the loss before it (nats)."""
    model.train()
    if fit.freeze_text:
        model.text_tower.eval()  # dropout would move what must stay
    where = device()
    pixels, ids, mask, positive_id, caption_id = (column.to(where, non_blocking=True) for column in batch)
    positive = same_id(positive_id, positive_id) | same_id(caption_id, caption_id)
    with (
        _attention(where),
        torch.autocast(where, torch.bfloat16, enabled=fit.precision == "bf16" and has_bf16(where)),
    ):
        image, text = model.encode_image(pixels), _encode_text_by_length(model, ids, mask)
    loss: Tensor = contrastive_loss(image, text, model.scale, positive)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), fit.max_grad_norm)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        model.log_scale.clamp_(0, math.log(MAX_SCALE))
    return loss.item()


def has_bf16(where: str) -> bool:
    """Whether the hardware computes in bf16; emulated, it takes twice the time of fp32 (docs/log.md)."""
    if where == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    units = torch.cpu.get_capabilities()
    return any(units.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def make_optimizers(model: DualEncoder, fit: "Fit") -> list[torch.optim.Optimizer]:
    """AdamW for everything, or for all but the towers' hidden matrices where `fit.muon_lr` gives those to Muon.

    Weight decay falls on matrices alone, never on norms, biases, embeddings and the temperature. Muon (Jordan et
    al. 2024) makes each step's update orthogonal: in few steps it learns far more (docs/log.md).
    """
    hidden, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2 or "embed" in name:
            plain.append(parameter)
        elif fit.muon_lr is not None and parameter.ndim == 2 and (".resblocks." in name or ".layer." in name):
            hidden.append(parameter)
        else:
            decayed.append(parameter)
    groups = [{"params": decayed, "weight_decay": fit.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=fit.lr, betas=(0.9, 0.98), fused=True)]
    if fit.muon_lr is not None:
        options: dict[str, Any] = {"weight_decay": fit.weight_decay, "adjust_lr_fn": "match_rms_adamw"}
        optimizers.append(torch.optim.Muon(hidden, lr=fit.muon_lr, **options))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def schedule(done: int, steps: int, warmup_steps: int) -> float:
    """Factor of the learning rate after `done` of `steps`: linear warm-up, then a cosine to zero."""
    return min(1.0, (done + 1) / max(1, warmup_steps)) * (0.5 + 0.5 * math.cos(math.pi * done / steps))


def checkpoint_folder(name: str, inputs: Mapping[str, Path], params: Mapping[str, Any]) -> Path:
    """Where this very training keeps its checkpoint: keyed by inputs, params and the deciding code."""
    return CHECKPOINTS / f"{name}-{manifest.key(inputs, params, DECIDING_CODE)}"


def read_run_id(checkpoint: Path) -> str | None:
    """The tracking run of the training that was broken off, so that the resumed one goes on with it."""
    path = checkpoint / "run_id"
    return path.read_text().strip() if path.is_file() else None


def keep_run_id(checkpoint: Path, run_id: str | None) -> None:
    """Write beside the checkpoint which tracking run this training belongs to."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    if run_id is not None:
        (checkpoint / "run_id").write_text(run_id + "\n")


def remove_checkpoint(checkpoint: Path) -> None:
    """Called once the outs stand."""
    shutil.rmtree(checkpoint, ignore_errors=True)


def _save(
    checkpoint: Path, model: DualEncoder, optimizers: list[torch.optim.Optimizer], records: list[Record]
) -> None:
    checkpoint.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "random": torch.get_rng_state(),
        "records": records,
    }
    torch.save(state, checkpoint / "state.part")
    os.replace(checkpoint / "state.part", checkpoint / "state.pt")  # whole or not at all


def _resume(checkpoint: Path, model: DualEncoder, optimizers: list[torch.optim.Optimizer]) -> list[Record]:
    path = checkpoint / "state.pt"
    if not path.is_file():
        return []
    state = torch.load(path, map_location=device(), weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    torch.set_rng_state(state["random"].cpu())
    print(f"resumed after epoch {len(state['records'])} from {path}", flush=True)
    return list(state["records"])


def _encode_text_by_length(model: DualEncoder, ids: Tensor, mask: Tensor) -> Tensor:
    """The same vectors as `model.encode_text`: short captions are not padded to the batch's longest one."""
    lengths = mask.sum(1)
    order = lengths.argsort(stable=True)
    parts = [
        model.encode_text(ids[rows, : lengths[rows[-1]]], mask[rows, : lengths[rows[-1]]])
        for rows in order.chunk(TEXT_PARTS)
    ]
    return torch.cat(parts)[order.argsort()]


def _attention(where: str) -> contextlib.AbstractContextManager[None]:
    # On CPU the backward pass of the fused attention takes five times the plain one's at these lengths
    # (docs/log.md); on a GPU the fused one is right.
    return sdpa_kernel(SDPBackend.MATH) if where == "cpu" else contextlib.nullcontext()


def _line(record: Record, epochs: int) -> str:
    figures = ", ".join(f"{name} {value:.4g}" for name, value in record.items() if name != "epoch")
    return f"epoch {record['epoch']}/{epochs}: {figures}"
