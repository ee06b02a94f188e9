"""The training steps that benchmarks/train.py compares, ours and two public ones, and the tensors they share.

Pixels, and captions padded to 52 tokens, as cn_clip pads them. A bare machine is enough (see there).
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tuwen.core.compat import declare_torchvision_ops
from tuwen.model import architectures, device, dual_encoder, precision
from tuwen.training import optim, step

PADDED_TOKENS = 52  # Chinese-CLIP's context
CLS, SEP, FIRST_WORD = 101, 102, 670  # of its vocabulary
LR, WEIGHT_DECAY, CLIP = 5e-5, 1e-3, 1.0
PAPER_PAIRS = 4_000_000  # eight views of 50,000 pairs, ten epochs
DEVICE = device.choose_device()


class Batch(NamedTuple):
    """The input of a step: loader.Batch without the pairs' names, since tuwen/training/loader.py needs tables."""

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    positive_id: Tensor
    caption_id: Tensor


class Scale(NamedTuple):
    """What is measured: the towers, pairs a step, steps a round, rounds."""

    config: dict[str, Any]
    batch_size: int
    steps: int
    rounds: int


def make_small_scale() -> Scale:
    """Return what the ratios on a CPU are measured with."""
    towers = {
        "image": architectures.make_vit_config(64, 8, 192, 4),
        "text": architectures.make_bert_config(192, 2, PADDED_TOKENS),
    }
    return Scale({"dim": 192, "vocabulary": architectures.VOCABULARY_SIZE, **towers}, 128, 4, 7)


def make_tiny_scale() -> Scale:
    """Return what shows in seconds that everything runs."""
    towers = {
        "image": architectures.make_vit_config(16, 8, 64, 1),
        "text": architectures.make_bert_config(64, 1, PADDED_TOKENS),
    }
    return Scale({"dim": 32, "vocabulary": architectures.VOCABULARY_SIZE, **towers}, 8, 1, 1)


def make_large_scale() -> Scale:
    """Return the paper's model."""
    return Scale(architectures.make_chinese_clip_config("ViT-L-14", PADDED_TOKENS), 512, 4, 3)


def make_settings(**changes: Any) -> Any:
    """Return the fields of `params.Fit` without pydantic."""
    fields = {"chunk": None, "lr": LR, "muon_lr": None, "weight_decay": WEIGHT_DECAY, "warmup_steps": 1}
    fields |= {
        "max_grad_norm": CLIP,
        "precision": "bf16",
        "deterministic": True,
        "gradient_checkpointing": False,
        "compile": False,
        "shard": "none",
    }
    fields |= {"freeze": "none", "siblings": "positives", "ema": None, "matryoshka": []}
    return SimpleNamespace(**fields | changes)


def draw_captions(rows: int, words: int, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw ids and mask [rows, 52]: as many words as the contest's captions have characters, mean 23, most 37."""
    ids = np.zeros((rows, PADDED_TOKENS), np.int64)
    lengths = np.clip(draw.normal(23, 7, rows).round().astype(int), 4, 37)
    for row, length in zip(ids, lengths, strict=True):
        row[: length + 2] = [CLS, *draw.integers(FIRST_WORD, words, length), SEP]
    return torch.from_numpy(ids), torch.from_numpy((ids > 0).astype(np.int64))


def make_batch(scale: Scale, seed: int) -> Batch:
    """Draw pixels and captions, on the device."""
    draw, rows, side = np.random.default_rng(seed), scale.batch_size, scale.config["image"]["size_px"]
    ids, mask = draw_captions(rows, scale.config["vocabulary"], draw)
    pixels = torch.from_numpy(draw.standard_normal((rows, 3, side, side), np.float32))
    names = torch.arange(rows)
    return Batch(*(column.to(DEVICE) for column in (pixels, ids, mask, names, names)))


Run = Callable[[Iterator[Any]], None]


def make_own_run(scale: Scale, **changes: Any) -> Run:
    """Return tuwen/training/step.py, as `stages/finetune.py` runs it."""
    fit = make_settings(batch_size=scale.batch_size, **changes)
    encoder = dual_encoder.DualEncoder(scale.config)
    step.prepare_model(encoder, fit)
    optimizers = optim.make_optimizers(encoder, fit)
    ema = None if fit.ema is None else optim.Ema(encoder, fit.ema)

    def run(batches: Iterator[Any]) -> None:
        torch.use_deterministic_algorithms(fit.deterministic)  # the others need not pay for it
        for done, batch in enumerate(batches, 1):
            step.step(encoder, optimizers, batch, 1.0, fit)
            if ema is not None:
                ema.update(encoder, done)
        torch.use_deterministic_algorithms(False)

    return run


def make_hugging_face_run(scale: Scale) -> Run:
    """Return the loop of a public script: the whole model under autocast, its own loss, AdamW as it comes."""
    declare_torchvision_ops()
    from transformers import ChineseCLIPConfig, ChineseCLIPModel

    image, text = scale.config["image"], scale.config["text"]
    config = ChineseCLIPConfig(
        text_config={
            "vocab_size": scale.config["vocabulary"],
            "hidden_size": text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["width"] // 64,
            "intermediate_size": 4 * text["width"],
        },
        vision_config={
            "image_size": image["size_px"],
            "patch_size": image["patch_px"],
            "hidden_size": image["width"],
            "num_hidden_layers": image["layers"],
            "num_attention_heads": image["heads"],
            "intermediate_size": image["mlp"],
        },
        projection_dim=scale.config["dim"],
    )
    clip: Any = ChineseCLIPModel(config).to(DEVICE).train()
    optimizer = torch.optim.AdamW(clip.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)

    def run(batches: Iterator[Any]) -> None:
        for batch in batches:
            optimizer.zero_grad()
            with torch.autocast(DEVICE, torch.bfloat16):
                loss = clip(
                    input_ids=batch.ids, attention_mask=batch.mask, pixel_values=batch.pixels, return_loss=True
                ).loss
            loss.backward()
            optimizer.step()
            loss.item()

    return run


def make_checkpointed_run(scale: Scale) -> Run:
    """Return the loop of `make_hugging_face_run` with its own switch for memory, for smaller cards."""
    from transformers import ChineseCLIPModel

    original = ChineseCLIPModel.__init__

    def init(self: Any, config: Any) -> None:
        original(self, config)
        self.gradient_checkpointing_enable({"use_reentrant": False})

    ChineseCLIPModel.__init__ = init
    try:
        return make_hugging_face_run(scale)
    finally:
        ChineseCLIPModel.__init__ = original


class OpenClipForm(torch.nn.Module):
    """Our towers in the form that open_clip_train wants; it knows padding by the token, as open_clip does."""

    def __init__(self, encoder: dual_encoder.DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.logit_scale = encoder.log_scale

    def forward(self, pixels: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """Return what ClipLoss takes."""
        image, text = self.encoder.encode_image(pixels), self.encoder.encode_text(ids, (ids != 0).long())
        return {"image_features": image, "text_features": text, "logit_scale": self.logit_scale.exp()}


def make_open_clip_run(scale: Scale) -> Run:
    """Return open_clip_train.train.train_one_epoch and ClipLoss on our towers; AdamW as its main.py makes it."""
    declare_torchvision_ops()
    from open_clip.loss import ClipLoss
    from open_clip_train.train import train_one_epoch

    form = OpenClipForm(dual_encoder.DualEncoder(scale.config)).to(DEVICE)
    options = {
        "device": DEVICE,
        "precision": "amp_bf16",
        "distill": False,
        "accum_freq": 1,
        "skip_scheduler": True,
    }
    options |= {"horovod": False, "grad_clip_norm": CLIP, "rank": 0, "local_rank": 0, "distributed": False}
    options |= {"world_size": 1, "wandb": False}
    args = SimpleNamespace(**options, log_every_n_steps=100, batch_size=scale.batch_size)
    named = list(form.named_parameters())
    excluded = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    excluded_ids = set(map(id, excluded))
    groups = [
        {"params": excluded, "weight_decay": 0.0},
        {"params": [p for _, p in named if id(p) not in excluded_ids], "weight_decay": WEIGHT_DECAY},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98), eps=1e-6)

    class Loader:
        def __init__(self, batches: Iterator[Any]) -> None:
            self.batches, self.num_batches, self.num_samples = batches, scale.steps, scale.steps * scale.batch_size

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return ((batch.pixels, batch.ids) for batch in self.batches)

    def run(batches: Iterator[Any]) -> None:
        data = SimpleNamespace(dataloader=Loader(batches), set_epoch=lambda epoch: None)
        train_one_epoch(form, {"train": data}, ClipLoss(), 0, optimizer, None, None, None, args)

    return run


def make_trimmed(make_run: Callable[[Scale], Run]) -> Callable[[Scale], Run]:
    """Return a contestant that pads captions to the longest of their batch alone, with our kernel of attention."""

    def trim(batch: Batch) -> Batch:
        longest = int(batch.mask.sum(1).max())
        return batch._replace(ids=batch.ids[:, :longest], mask=batch.mask[:, :longest])

    def make_trimmed_run(scale: Scale) -> Run:
        run = make_run(scale)

        def run_trimmed(batches: Iterator[Any]) -> None:
            with precision.set_attention(DEVICE):
                run(map(trim, batches))

        return run_trimmed

    return make_trimmed_run


CONTESTANTS = {
    "tuwen": make_own_run,
    "Hugging Face": make_hugging_face_run,
    "open_clip_train": make_open_clip_run,
    "Hugging Face, trimmed": make_trimmed(make_hugging_face_run),
    "open_clip_train, trimmed": make_trimmed(make_open_clip_run),
}
