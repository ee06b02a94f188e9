"""Two objects side by side: what a re-ranker tells apart and a dual encoder of the same towers does not.

    .venv/bin/python benchmarks/rerank_training.py order    # 红圆在蓝方左边, or 蓝方在红圆左边?
    .venv/bin/python benchmarks/rerank_training.py steps    # one pass for FGR and MLM against two

Pictures are drawn here, a dual encoder is trained on them, then the re-ranker over its frozen towers by the loop
and the objectives of the pipeline. Judged are pictures of pairs of objects that no training batch held.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from tuwen.core.params import Fit, Rerank
from tuwen.data.formats.images import make_pixel_tensor
from tuwen.data.formats.text import SPECIAL_TOKENS, build_vocabulary, make_tokenizer, tokenize
from tuwen.model.architectures import make_bert_config, make_vit_config
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.reranker import make_cross_encoder
from tuwen.reranking.objective import HiddenWords, Matching
from tuwen.reranking.recipe import describe_layers
from tuwen.training import optim, trainer
from tuwen.training.loader import Batch
from tuwen.training.selection import Measured

COLOURS = {"红": "red", "绿": "green", "蓝": "blue", "黄": "gold", "紫": "purple", "灰": "gray", "青": "cyan"}
SHAPES = {"圆": "ellipse", "方": "rectangle"}
OBJECTS = [colour + shape for colour in COLOURS for shape in SHAPES]
SIDE_PX, PATCH_PX, TOKENS, BATCH, STEPS = 32, 8, 12, 128, 40
Pair = tuple[str, str]  # left, right

LOOP = {"lr": 1e-3, "muon_lr": 1e-2, "weight_decay": 0.1, "warmup_steps": 20, "max_grad_norm": 1.0}
LOOP |= {"batch_size": BATCH, "precision": "bf16", "ema": None, "select": {"epochs": False, "wise_ft": []}}
FIT = {"chunk": None, "gradient_checkpointing": False, "compile": False, "freeze": "none"}
FIT |= {"siblings": "positives", "distil": None}
NONE = {"gcpr": 0.0, "mlm": 0.0, "mrfr": 0.0, "mrc": 0.0, "mrc_kl": 0.0, "recovery": 0.0, "fgd": 0.0}


def draw_picture(pair: Pair, draw: np.random.Generator) -> np.ndarray:
    """Return uint8 [S, S, 3]: both objects, of a size and at a height that vary."""
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), "white")
    pen = ImageDraw.Draw(image)
    for half, (colour, shape) in enumerate(pair):
        side = int(draw.integers(8, 14))
        x, y = half * 16 + int(draw.integers(0, 16 - side)), int(draw.integers(0, SIDE_PX - side))
        getattr(pen, SHAPES[shape])((x, y, x + side, y + side), fill=COLOURS[colour])
    return np.asarray(image)


def write_caption(pair: Pair) -> str:
    """Say what stands on the left of what."""
    return f"{pair[0]}在{pair[1]}左边"


def split_pairs(seed: int) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs that are trained on, and those that are judged; a pair goes with its mirror."""
    unordered = [(a, b) for n, a in enumerate(OBJECTS) for b in OBJECTS[n + 1 :]]
    order = np.random.default_rng(seed).permutation(len(unordered))
    parts = ([unordered[i] for i in order[len(order) // 4 :]], [unordered[i] for i in order[: len(order) // 4]])
    train, test = ([*part, *((b, a) for a, b in part)] for part in parts)
    return train, test


def make_batches(pairs: list[Pair], tokenizer: Any, seed: int) -> trainer.Batches:
    """Return what yields the batches of an epoch: new pictures of pairs drawn at random."""

    def load(epoch: int, first_step: int) -> Iterator[Batch]:
        draw = np.random.default_rng([seed, epoch])
        for _ in range(STEPS):
            number = draw.integers(0, len(pairs), BATCH)
            pixels = make_pixel_tensor([draw_picture(pairs[n], draw) for n in number])
            ids, mask = tokenize(tokenizer, [write_caption(pairs[n]) for n in number], TOKENS)
            name = torch.from_numpy(number)
            yield Batch(pixels, ids, mask, name, name)

    return load


def train(model: Any, batches: trainer.Batches, fit: Any, seed: int, objective: Any = None) -> float:
    """Train `model` and return the seconds of the processor's time that it took."""
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(
            model,
            batches,
            STEPS,
            fit,
            seed=seed,
            checkpoint=Path(folder),
            evaluate=lambda _: Measured({}, np.zeros(0)),
            log=lambda *_: None,
            objective=objective,
        )
    return time.process_time() - begun


@torch.inference_mode()
def judge(dual: DualEncoder, cross: Any, tokenizer: Any, pairs: list[Pair]) -> tuple[float, float]:
    """Return how often each gives a picture's own caption more than that of its mirror: by cosine, by match."""
    draw = np.random.default_rng(99)
    shown = [pair for pair in pairs for _ in range(8)]
    pixels = make_pixel_tensor([draw_picture(pair, draw) for pair in shown])
    image, tokens = dual.eval().encode_image_tokens(pixels)
    cosines, matches = [], []
    for captions in ([write_caption(p) for p in shown], [write_caption(p[::-1]) for p in shown]):
        ids, mask = tokenize(tokenizer, captions, TOKENS)
        vector, states = dual.encode_text_tokens(ids, mask)
        cosines.append((image * vector).sum(1))
        matches.append(cross.eval().score_pairs(cross.compress_image(tokens), states, mask))
    by_cosine, by_match = ((own > mirrored).float().mean().item() for own, mirrored in (cosines, matches))
    return by_cosine, by_match


def make_dual(seed: int) -> tuple[DualEncoder, Any, HiddenWords]:
    """Return a fresh dual encoder, its tokenizer, and the tokens that hiding needs."""
    vocabulary = build_vocabulary(map(write_caption, split_pairs(seed)[0]))
    torch.manual_seed(seed)
    image = make_vit_config(SIDE_PX, PATCH_PX, 128, 3) | {"patch_dropout": 0.0}
    config = {"dim": 64, "image": image, "text": make_bert_config(128, 2, TOKENS, TOKENS)}
    dual = DualEncoder(config | {"vocabulary": len(vocabulary)})
    words = HiddenWords(vocabulary.index("[MASK]"), tuple(vocabulary.index(token) for token in SPECIAL_TOKENS))
    return dual, make_tokenizer(vocabulary), words


def make_settings(epochs: int, fusion: str, **objectives: float) -> Rerank:
    """Return the re-ranker's settings."""
    shape = {"seed": 0, "fusion": fusion, "layers": 2, "width": None, "heads": None, "mlp": None, "dropout": 0.0}
    shape |= {"image_tokens": None, "k": 32, "corpus": 0.0, "negatives": 1, "class_weights": [1.0, 1.0]}
    shape |= {
        "objectives": {"fgr": 1.0} | NONE | objectives,
        "hidden_share": 0.15,
        "clusters": 16,
        "towers": "frozen",
        "teacher": None,
        "tgd": None,
    }
    return Rerank.model_validate(shape | {"fit": LOOP | {"epochs": epochs}})


def measure_order(epochs: int, seeds: int, fusion: str) -> None:
    """Print match accuracy of both models for each seed; half of the answers would be right by chance."""
    for seed in range(seeds):
        settings = make_settings(epochs, fusion)
        dual, tokenizer, words = make_dual(seed)
        learned, judged = split_pairs(seed)
        batches = make_batches(learned, tokenizer, seed)
        own = train(dual, batches, Fit.model_validate(LOOP | FIT | {"epochs": 2 * epochs}), seed)
        cross = make_cross_encoder(dual, describe_layers(dual, settings))
        more = train(cross, batches, settings.fit, seed, Matching(dual, settings, words))
        by_cosine, by_match = judge(dual, cross, tokenizer, judged)
        print(
            f"seed {seed}: cosine {100 * by_cosine:.1f} % after {own:.0f} s, match {100 * by_match:.1f} % after "
            f"{more:.0f} s more ({fusion}; {8 * len(judged)} pictures)",
            flush=True,
        )


def measure_steps(fusion: str) -> None:
    """Print the processor's seconds of a step whose pass for FGR finds the words too, and of two passes."""
    settings = make_settings(1, fusion, mlm=1.0)
    dual, tokenizer, words = make_dual(0)
    cross, objective = make_cross_encoder(dual, describe_layers(dual, settings)), Matching(dual, settings, words)
    objective.prepare(cross, STEPS)
    optimizers = optim.make_optimizers(cross, settings.fit)
    batch = next(iter(make_batches(split_pairs(0)[0], tokenizer, 0)(1, 0)))
    with torch.no_grad():
        tokens = dual.encode_image_tokens(batch.pixels)[1]
        states = dual.encode_text_tokens(batch.ids, batch.mask)[1]

    def take_one() -> None:
        objective.take_step(cross, optimizers, batch, 0.0, 0)

    def take_two() -> None:
        found = cross.predict_tokens(cross(tokens, states, batch.mask).text)  # the pass that is saved
        torch.autograd.backward(found.sum() * 0.0)
        take_one()

    seconds: dict[str, list[float]] = {"one": [], "two": []}
    for _ in range(8):
        for name, take in (("one", take_one), ("two", take_two)):
            begun = time.process_time()
            take()
            seconds[name].append(time.process_time() - begun)
    one, two = (float(np.median(values)) for values in seconds.values())
    print(f"{fusion}: one pass {1000 * one:.0f} ms, two {1000 * two:.0f} ms: {two / one:.2f} times", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["order", "steps"])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fusion", default="text_image")
    asked = parser.parse_args()
    if asked.what == "order":
        measure_order(asked.epochs, asked.seeds, asked.fusion)
    else:
        measure_steps(asked.fusion)


if __name__ == "__main__":
    main()
