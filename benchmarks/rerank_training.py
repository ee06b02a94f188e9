"""What a re-ranker tells apart and a dual encoder of the same towers does not, and what each objective adds.

    .venv/bin/python benchmarks/rerank_training.py gain       # the dual encoder alone against both, in equal time
    .venv/bin/python benchmarks/rerank_training.py ablation   # each objective and each fusion, in equal steps
    .venv/bin/python benchmarks/rerank_training.py steps      # one pass for FGR and MLM against two

On the pictures and captions of made_scenes.py, by the loop and the objectives of the pipeline, from random
weights. The common space has so few numbers (--dim) that vectors hardly hold which colour has which shape; with 32
they do.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_scenes import SIDE_PX, TOKENS, judge, make_batches, make_test, split_pairs, swap_shapes, write_caption

from tuwen.core.params import Fit, Rerank
from tuwen.data.formats.text import SPECIAL_TOKENS, build_vocabulary, make_tokenizer
from tuwen.model.architectures import make_bert_config, make_vit_config
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.precision import set_precision
from tuwen.model.reranker import make_cross_encoder
from tuwen.reranking import losses
from tuwen.reranking.encoded import encode_batch, join_negatives
from tuwen.reranking.joint import JointModel
from tuwen.reranking.lengths import read_by_length
from tuwen.reranking.objective import Matching
from tuwen.reranking.recipe import describe_layers
from tuwen.training import optim, trainer
from tuwen.training.distillation.hidden_words import HiddenWords, hide_words
from tuwen.training.loader import Batch
from tuwen.training.selection import Measured
from tuwen.training.step import find_positives, move_weights, prepare_torch

BATCH, STEPS, EPOCHS, WIDTH = 128, 40, 15, 64
FGR = 5.0  # beside 1 for GCPR; with 1 some seeds never look at one place for colour and shape (docs/log.md)
LOOP = {
    "epochs": EPOCHS,
    "batch_size": BATCH,
    "lr": 1e-3,
    "muon_lr": 1e-2,
    "weight_decay": 0.1,
    "warmup_steps": 100,
}
LOOP |= {
    "max_grad_norm": 1.0,
    "precision": "bf16",
    "deterministic": True,
    "ema": None,
    "select": {"epochs": False, "wise_ft": [], "soup": False},
}
FIT: dict[str, Any] = {
    "chunk": None,
    "gradient_checkpointing": False,
    "compile": False,
    "shard": "none",
    "freeze": "none",
}
FIT |= {"layer_decay": 1.0, "tower_lr": None, "matryoshka": []}
FIT |= {
    "siblings": "positives",
    "mask_margin": None,
    "sigmoid": False,
    "all_patches_epochs": 0,
    "shard": "none",
    "distil": None,
}
TGD = {"alpha": 0.4, "queue": 1024, "half_life": 512}
NONE = dict.fromkeys(["mlm", "mrfr", "mrc", "mrc_kl", "recovery", "fgd"], 0.0)
BASE: dict[str, Any] = {
    "seed": 0,
    "towers": "trained",
    "layers": 2,
    "width": None,
    "heads": None,
    "mlp": None,
    "dropout": 0.0,
}
BASE |= {"image_tokens": None, "k": 32, "corpus": 0.0, "negatives": 1, "class_weights": [1.0, 1.0]}
BASE |= {"hardness": {"first": 0.0, "last": 3.0, "ramp": 0.3}, "hidden_share": 0.15, "clusters": 16}
# name of a row -> fusion, objectives beside GCPR and FGR, TgD
ROWS: dict[str, tuple[str, dict[str, float], bool]] = {
    "+ FGR": ("text_image", {}, False),
    "+ FGR, MLM in the same pass": ("text_image", {"mlm": 1.0}, False),
    "+ FGR, MLM, TgD": ("text_image", {"mlm": 1.0}, True),
    "+ FGR, MLM, TgD, FgD": ("text_image", {"mlm": 1.0, "fgd": 1.0}, True),
    "both: + FGR": ("both", {}, False),
    "both: + FGR, MRFR": ("both", {"mrfr": 1.0}, False),
    "co_attention: + FGR": ("co_attention", {}, False),
    "joint: + FGR": ("joint", {}, False),
}


class Task:
    """The made task of a seed: what is trained on, what is judged, and a dual encoder with random weights."""

    def __init__(self, seed: int, dim: int) -> None:
        self.seed, (learned, judged) = seed, split_pairs(seed)
        captions = [write_caption(shown) for pair in learned + judged for shown in (pair, swap_shapes(pair))]
        vocabulary = build_vocabulary(captions)
        self.tokenizer, self.test = make_tokenizer(vocabulary), make_test(judged, 20)
        self.batches = make_batches(learned, self.tokenizer, BATCH, STEPS, seed)
        self.words = HiddenWords(vocabulary.index("[MASK]"), tuple(map(vocabulary.index, SPECIAL_TOKENS)))
        torch.manual_seed(seed)
        image = make_vit_config(SIDE_PX, 8, WIDTH, 3) | {"patch_dropout": 0.0}
        text = make_bert_config(WIDTH, 2, TOKENS, TOKENS)
        self.dual = DualEncoder({"dim": dim, "image": image, "text": text, "vocabulary": len(vocabulary)})

    def train(self, model: Any, fit: Any, objective: Any = None) -> float:
        """Train `model` and return the seconds of the processor's time that it took."""
        begun = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            trainer.train(
                model,
                self.batches,
                STEPS,
                fit,
                seed=self.seed,
                checkpoint=Path(folder),
                evaluate=lambda _: Measured({}, np.zeros(0)),
                log=lambda *_: None,
                objective=objective,
            )
        return time.process_time() - begun


def make_settings(fusion: str, objectives: dict[str, float], tgd: bool) -> Rerank:
    """Return the settings of a training of towers and layers together."""
    weights = {"gcpr": 1.0, "fgr": FGR} | NONE | objectives
    teacher = {"momentum": 0.98} if tgd or weights["fgd"] else None
    given = {"fusion": fusion, "objectives": weights, "teacher": teacher, "tgd": TGD if tgd else None}
    return Rerank.model_validate(BASE | given | {"fit": LOOP})


def measure_dual(seed: int, dim: int, epochs: int) -> tuple[float, float]:
    """Return the match accuracy of a dual encoder that is trained alone, and its seconds."""
    task = Task(seed, dim)
    seconds = task.train(task.dual, Fit.model_validate(LOOP | FIT | {"epochs": epochs}))
    return judge(task.dual, None, task.tokenizer, task.test)[0], seconds


def measure_both(seed: int, dim: int, settings: Rerank) -> tuple[float, float, float]:
    """Return the accuracy by cosine and by match of towers and layers trained together, and their seconds."""
    task = Task(seed, dim)
    cross = make_cross_encoder(task.dual, describe_layers(task.dual, settings))
    seconds = task.train(JointModel(task.dual, cross), settings.fit, Matching(task.dual, settings, task.words))
    by_cosine, by_match = judge(task.dual, cross, task.tokenizer, task.test)
    assert by_match is not None
    return by_cosine, by_match, seconds


def measure_gain(seeds: list[int], dim: int) -> None:
    """Print the accuracy of a dual encoder, given at least the time of the re-ranker's training, and of both."""
    for seed in seeds:
        by_cosine, by_match, seconds = measure_both(seed, dim, make_settings(*ROWS["+ FGR"]))
        alone, own = measure_dual(seed, dim, 2 * EPOCHS)
        print(
            f"seed {seed}: dual encoder alone {100 * alone:.1f} % after {own:.0f} s; both, after {seconds:.0f} s: "
            f"cosine {100 * by_cosine:.1f} %, match {100 * by_match:.1f} % ({100 * (by_match - alone):+.1f})",
            flush=True,
        )


def measure_ablation(seeds: list[int], dim: int) -> None:
    """Print a row for each objective and each fusion: the accuracies by seed, in percent."""
    alone = [measure_dual(seed, dim, EPOCHS) for seed in seeds]
    print(f"| GCPR | {_describe([one for one, _ in alone])} | – | {alone[0][1]:.0f} s |", flush=True)
    for name, row in ROWS.items():
        measured = [measure_both(seed, dim, make_settings(*row)) for seed in seeds]
        cosines, matches, seconds = zip(*measured, strict=True)
        print(f"| {name} | {_describe(cosines)} | {_describe(matches)} | {np.mean(seconds):.0f} s |", flush=True)


def _describe(accuracies: Any) -> str:
    return " / ".join(f"{100 * accuracy:.1f}" for accuracy in accuracies)


def measure_steps(dim: int) -> None:
    """Print the processor's seconds of a step whose pass for FGR finds the words too, and of two passes."""
    task = Task(0, dim)
    batch = next(iter(task.batches(1, 0)))
    for fusion in ("text_image", "both", "co_attention", "joint"):
        settings = make_settings(fusion, {"mlm": 1.0}, tgd=False)
        model = JointModel(task.dual, make_cross_encoder(task.dual, describe_layers(task.dual, settings)))
        optimizers = optim.make_optimizers(model, settings.fit)
        prepare_torch(settings.fit, "rerank.fit")
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for again in range(12):
            for once in (True, False):
                begun = time.process_time()
                with set_precision(settings.fit.precision):
                    loss = compute_loss(model, batch, task.words, once)
                torch.autograd.backward(loss)
                move_weights(model, optimizers, loss, 0.0, settings.fit)
                if again:  # the first step of each allocates
                    seconds[once].append(time.process_time() - begun)
        one, two = (1000 * float(np.median(seconds[once])) for once in (True, False))
        print(f"{fusion}: one pass {one:.0f} ms, two {two:.0f} ms: {two / one:.2f} times", flush=True)


def compute_loss(model: JointModel, batch: Batch, words: HiddenWords, once: bool) -> torch.Tensor:
    """Return the losses of FGR and MLM: of one pass over texts with hidden words, or of one for each.

    Two passes judge the whole texts; the images go through their tower once in both forms.
    """
    shown, hidden_bL = hide_words(batch.ids, torch.rand(batch.ids.shape), 0.15, words)
    encoded = encode_batch(
        model.dual, batch.pixels, batch.ids, batch.mask, shown if once else batch.ids, whole=False
    )
    positive_bB = find_positives(torch.stack(batch[3:5], dim=1))
    pairs = join_negatives(encoded, model.dual.scale, positive_bB, torch.rand(BATCH, 2))
    out = read_by_length(model.cross, pairs.tokens, pairs.text, pairs.mask, pairs.image)
    matched = losses.compute_match_loss(out.heads, pairs.label, pairs.counted, [1.0, 1.0], torch.clone)
    text_bLW = out.text[:BATCH]
    if not once:
        states = model.dual.encode_text_tokens(shown, batch.mask)[1]
        own_b = torch.arange(BATCH)
        text_bLW = read_by_length(model.cross, encoded.tokens, states, batch.mask, own_b).text
    found_MV = model.cross.predict_tokens(text_bLW[:, : hidden_bL.shape[1]][hidden_bL])
    return matched + losses.compute_word_loss(found_MV, batch.ids[hidden_bL], torch.clone)


def main() -> None:
    """Measure what was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["gain", "ablation", "steps"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dim", type=int, default=5)
    asked = parser.parse_args()
    if asked.what == "gain":
        measure_gain(asked.seeds, asked.dim)
    elif asked.what == "ablation":
        measure_ablation(asked.seeds, asked.dim)
    else:
        measure_steps(asked.dim)


if __name__ == "__main__":
    main()
