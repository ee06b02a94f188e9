"""The memory of a card that trains, by a model of what it holds; and the model against bytes that were counted.

    .venv/bin/python benchmarks/memory.py           # what the presets for cards take, in GB
    .venv/bin/python benchmarks/memory.py check     # what autograd keeps on a CPU, counted and modelled

Counted is every storage that a forward pass saves for the backward pass, each once, and under checkpointing what
its layers are called with. Attention is the kernel that keeps no scores, as on a GPU.
Shapes: S pixels a side, L positions, W width, M numbers inside a perceptron, H heads.
"""

import argparse
import contextlib
import itertools
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from train_contestants import draw_captions

from tuwen.data.formats.tokens.padding import TEXT_PARTS, group_by_length
from tuwen.model import architectures
from tuwen.model.dual_encoder import DualEncoder

FLOAT, HALF = 4, 2  # bytes of a number
CUDA_BYTES = 1e9  # of the driver, the kernels and their workspaces
BATCHES = 2  # on the card: the one that is stepped on and the one that is on its way
MAX_TOKENS = 52
PRESETS = Path(__file__).resolve().parents[1] / "presets"
# preset -> its training, the processes that it is meant for, and GB of a card
CARDS = {
    "contest": ("finetune", 1, 140),
    "contest-80gb": ("finetune", 1, 80),
    "contest-24gb": ("finetune", 1, 24),
    "pretrain-200m": ("baseline", 64, 80),
}


class Kept(NamedTuple):
    """Bytes that a pair keeps of a tower: in all, and in one of its layers that checkpointing computes again."""

    whole: float
    layer: float


def model_image(image: dict[str, Any], half: bool, checkpointing: bool) -> Kept:
    """Return what vit.py keeps: the stream between the blocks is float32 in either precision."""
    number, (width, inside, layers) = HALF if half else FLOAT, (image[name] for name in ("width", "mlp", "layers"))
    positions = (image["size_px"] // image["patch_px"]) ** 2 + 1
    stream = FLOAT * positions * width
    # both norms' inputs; of the products two normed inputs, q, k, v and what attention returns; the perceptron's
    block = 2 * stream + number * positions * (6 * width + 2 * inside) + FLOAT * positions * (image["heads"] + 4)
    ends = number * 3 * image["size_px"] ** 2 + 2 * stream
    return Kept(ends + layers * (stream if checkpointing else block), block - stream)


def model_text(text: dict[str, Any], tokens: float, half: bool, checkpointing: bool, dropout_bytes: int) -> Kept:
    """Return what transformers' BERT keeps of a text; dropout_bytes: of one number's draw, 1 on a GPU."""
    number, (width, inside, layers) = HALF if half else FLOAT, (text[name] for name in ("width", "mlp", "layers"))
    stream, drawn = FLOAT * tokens * width, dropout_bytes * tokens * width if text["dropout"] else 0
    copies = 4 if half else 2  # autocast casts a layer's input for q, k and v each
    products = number * tokens * ((copies + 4) * width + 2 * inside)
    layer = 2 * stream + 2 * drawn + products + FLOAT * tokens * (text["heads"] + 4)
    ends = stream + drawn + number * tokens * width  # the embeddings' norm and dropout, and what is projected
    return Kept(ends + layers * (stream if checkpointing else layer), layer)


class Setting(NamedTuple):
    """A training on one card; batch_size: of all cards together."""

    config: dict[str, Any]
    batch_size: int
    chunk: int | None
    half: bool
    checkpointing: bool
    average: bool
    cards: int
    shares: bool


def estimate_bytes(one: Setting, tokens: float) -> dict[str, float]:
    """Return the bytes of a card by what they are; tokens: of a text on the mean, its padding included."""
    with torch.device("meta"):
        model = DualEncoder(one.config)
    own, rows = one.batch_size // one.cards, one.chunk or one.batch_size // one.cards
    parts = 1 if one.chunk else TEXT_PARTS
    weights = sum(p.numel() for p in model.parameters()) / (one.cards if one.shares else 1)
    image = model_image(one.config["image"], one.half, one.checkpointing)
    text = model_text(one.config["text"], tokens, one.half, one.checkpointing, 1)
    again = rows * max(image.layer, text.layer / parts) if one.checkpointing else 0
    cast = count_matrices(model.image_tower) + parts * count_matrices(model.text_tower) if one.half else 0
    return {
        "weights, gradients, AdamW": 4 * FLOAT * weights,
        "average": FLOAT * weights * one.average,
        "cast weights": HALF * cast,
        "activations": rows * (image.whole + text.whole) + again,
        "batches": BATCHES * own * FLOAT * 3 * one.config["image"]["size_px"] ** 2,
        "loss": 6 * FLOAT * own * one.batch_size,  # logits, their softmax and targets, in both directions
        "CUDA": CUDA_BYTES,
    }


def count_matrices(tower: nn.Module) -> int:
    """Count the numbers of the matrices that products are made with."""
    return sum(layer.weight.numel() for layer in tower.modules() if isinstance(layer, nn.Linear | nn.Conv2d))


def measure_tokens() -> float:
    """Return the mean length of captions like the contest's in their groups, padding included."""
    _, mask = draw_captions(512, architectures.VOCABULARY_SIZE, np.random.default_rng(0))
    groups, _ = group_by_length(mask.sum(1))
    return sum(len(rows) * longest for rows, longest in groups) / len(mask)


def count_saved_bytes(compute: Callable[[], Tensor], checkpointed: Iterable[nn.Module]) -> int:
    """Count the bytes that are kept for the backward pass, with the inputs of `checkpointed` layers."""
    kept: dict[int, Tensor] = {}  # by storage; held, so that none comes to lie where another was

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def keep_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        keep(inputs[0])

    with contextlib.ExitStack() as hooks:
        for layer in checkpointed:
            hooks.enter_context(layer.register_forward_pre_hook(keep_input))
        hooks.enter_context(saved_tensors_hooks(keep, lambda tensor: tensor))
        out = compute()
    assert out.grad_fn is not None
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def measure_kept(side: str, config: dict[str, Any], tokens: int, half: bool, checkpointing: bool) -> float:
    """Return the bytes that a picture or a text ("image" or "text") keeps on a CPU: more rows, more bytes."""
    model = DualEncoder(config).train()
    model.set_gradient_checkpointing(checkpointing)
    text_tower: Any = model.text_tower
    for layer in text_tower.encoder.layer:
        layer.attention.self.dropout.p = 0.0  # a CPU draws it by the kernel that keeps the scores
    layers = model.image_tower.layer if side == "image" else text_tower.encoder.layer

    def count(rows: int) -> int:
        pixels = torch.randn(rows, 3, *[config["image"]["size_px"]] * 2)
        ids = torch.randint(1, config["vocabulary"], (rows, tokens))
        with torch.autocast("cpu", torch.bfloat16, enabled=half), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            if side == "image":
                return count_saved_bytes(lambda: model.encode_image(pixels), layers if checkpointing else ())
            texts = partial(model.encode_text, ids, torch.ones_like(ids))
            return count_saved_bytes(texts, layers if checkpointing else ())

    return (count(6) - count(2)) / 4


def check_model(sizes: dict[str, tuple[dict[str, Any], int]]) -> float:
    """Print counted and modelled bytes of a pair; return the largest difference as a share of the counted ones."""
    worst = 0.0
    print(f"{'':40}{'counted':>12}{'modelled':>12}{'ratio':>8}")
    for name, (config, tokens) in sizes.items():
        for half, checkpointing in itertools.product((True, False), (False, True)):
            modelled = {
                "image": model_image(config["image"], half, checkpointing),
                "text": model_text(config["text"], tokens, half, checkpointing, HALF if half else FLOAT),
            }
            for side, kept in modelled.items():
                counted = measure_kept(side, config, tokens, half, checkpointing)
                label = f"{name}, {side}, {'bf16' if half else 'fp32'}{', checkpointing' * checkpointing}"
                ratio = kept.whole / counted
                print(f"{label:40}{counted:12,.0f}{kept.whole:12,.0f}{ratio:8.3f}", flush=True)
                worst = max(worst, abs(ratio - 1))
    return worst


def make_sizes(tiny_run: bool) -> dict[str, tuple[dict[str, Any], int]]:
    """Return what is counted: configs, and the tokens of a text."""
    sizes = {"small": (64, 8, 192, 3, 128, 2, 20)}
    if not tiny_run:
        sizes["middling"] = (224, 16, 768, 6, 768, 6, 32)
    return {
        name: (
            {
                "dim": 64,
                "vocabulary": 1000,
                "image": architectures.make_vit_config(size_px, patch_px, width, layers),
                "text": architectures.make_bert_config(words_width, words_layers, MAX_TOKENS),
            },
            tokens,
        )
        for name, (size_px, patch_px, width, layers, words_width, words_layers, tokens) in sizes.items()
    }


def read_setting(preset: str) -> Setting:
    """Return the training of a preset that CARDS names, of ViT-L/14 and RoBERTa-base."""
    from tuwen.core.presets import compose_preset, get_values  # not on a bare machine

    group, cards, _ = CARDS[preset]
    fit = get_values(compose_preset(preset, PRESETS))[group]["fit"]
    config = architectures.make_chinese_clip_config("ViT-L-14", MAX_TOKENS)
    switches = fit["precision"] == "bf16", fit["gradient_checkpointing"], fit["ema"] is not None
    return Setting(config, fit["batch_size"], fit["chunk"], *switches, cards, fit["shard"] == "full")


def print_presets() -> None:
    """Print what each preset takes of its card."""
    tokens = measure_tokens()
    for preset, (_, cards, card_gb) in CARDS.items():
        parts = estimate_bytes(read_setting(preset), tokens)
        whole = sum(parts.values()) / 1e9
        print(f"\n{preset}: {whole:.1f} GB of {card_gb} GB, {cards} card(s), texts of {tokens:.1f} tokens")
        for name, count in parts.items():
            print(f"  {name:28}{count / 1e9:8.2f}")


def main() -> None:
    """Print one or the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["presets", "check"], default="presets")
    parser.add_argument("--tiny", action="store_true", help="count small towers alone")
    options = parser.parse_args()
    if options.part == "check":
        print(f"at most {check_model(make_sizes(options.tiny)):.1%} off")
    else:
        print_presets()


if __name__ == "__main__":
    main()
