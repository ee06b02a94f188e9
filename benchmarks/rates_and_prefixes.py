"""What `fit.matryoshka` and rates by layer give on the sample, over three seeds: the tables in docs/log.md.

    python benchmarks/rates_and_prefixes.py prefixes       # heads over the baseline's vectors
    python benchmarks/rates_and_prefixes.py layers 0.8     # the text tower, against the baseline's picture vectors

Run it in a checkout with the outs of the sample (`make run`); it reads them and writes nothing. Both train on the
plain pairs of the bank, without views; a seed decides their order, and what dropout draws. Figures are R@5 on test
in percent, text to image and image to text.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tuwen.core.params import Fit, load_params
from tuwen.data.formats import pairs, text
from tuwen.model import adapter
from tuwen.model.dual_encoder import load_model
from tuwen.retrieval.encode import embed_captions
from tuwen.retrieval.quantised.recall import list_forms, measure_form
from tuwen.retrieval.vectors import RetrievalTask, Vectors
from tuwen.training import trainer
from tuwen.training.frozen import adapters
from tuwen.training.loader import Batch, hash_names
from tuwen.training.selection import Measured

SEEDS = (0, 1, 2)
PREFIXES = [128, 64, 32]
CLEAN, EMBEDDED, MODEL = Path("data/clean"), Path("embeddings/baseline"), Path("models/baseline")
SETS = ("bank", "valid", "test")
HEADS = {"freeze": "none", "lr": 1.0e-3, "epochs": 20, "batch_size": 256, "warmup_steps": 20}
TOWER = {"freeze": "image", "lr": 1.0e-4, "epochs": 3, "batch_size": 128, "warmup_steps": 10}


def make_fit(changes: dict[str, Any]) -> Fit:
    """Return the sample's settings of fine-tuning with these changes."""
    return Fit.model_validate(load_params().finetune.fit.model_dump() | changes)


def measure_test(images: Vectors, texts: Vectors, dims: list[int]) -> list[tuple[float, ...]]:
    """Return R@5 on test, text to image and image to text, at each number of first dimensions."""
    image, text_row = pairs.find_true_rows(pairs.read_pair_set(CLEAN / "test"))
    tasks = RetrievalTask(texts, images, text_row, image), RetrievalTask(images, texts, image, text_row)
    forms = [form for form in list_forms(images.shape[1], dims) if form.dtype == "float32"]
    return [tuple(100 * measure_form(task, form, (5,))[0] for task in tasks) for form in forms]


def print_rows(name: str, found_SFW: Any) -> None:
    """Print what was found by seed, form and way, and its mean and deviation over the seeds."""
    mean_N, deviation_N = (values.reshape(-1) for values in (found_SFW.mean(0), found_SFW.std(0, ddof=1)))
    for row_FW in found_SFW:
        print(f"{name}: {'  '.join(f'{t2i:.1f} {i2t:.1f}' for t2i, i2t in row_FW)}")
    print(
        f"{name}: {'  '.join(f'{m:.1f} ± {d:.1f}' for m, d in zip(mean_N, deviation_N, strict=True))}", flush=True
    )


def write_given(folder: Path) -> None:
    """Write the baseline's vectors of all sets as another program's, by their ids."""
    for side, name in (("images", "image_id"), ("texts", "text_id")):
        vectors = np.concatenate([np.load(EMBEDDED / one / f"{side}.npy") for one in SETS])
        tables = [getattr(pairs.read_pair_set(CLEAN / one), side) for one in SETS]
        ids = [one for table in tables for one in table[name].to_pylist()]
        first = {one: row for row, one in reversed(list(enumerate(ids)))}
        np.save(folder / f"{side}.npy", vectors[list(first.values())])
        (folder / f"{side}.txt").write_text("\n".join(first) + "\n", encoding="utf-8")


def measure_prefixes(work: Path) -> None:
    """Print R@5 by dimension of heads that were trained with and without `fit.matryoshka`."""
    write_given(work)
    given, tables = adapter.read_given(work), pairs.read_pair_set(CLEAN / "test")
    ids = tables.images["image_id"].to_pylist(), tables.texts["text_id"].to_pylist()
    heads = adapter.Adapter(given.images.vectors.shape[1])
    adapter.save_adapter(heads, work, work / "start")
    print_rows("no heads", np.array([measure_test(*adapter.embed_given(heads, given, *ids), PREFIXES)] * 2))
    for dims in ([], PREFIXES):
        rows = []
        for seed in SEEDS:
            out, checkpoint = work / f"{len(dims)}-{seed}", work / f"checkpoint-{len(dims)}-{seed}"
            fit = make_fit(HEADS | {"matryoshka": dims})
            adapters.train_adapter(
                CLEAN, ["bank"], work / "start", out, fit, seed, checkpoint, lambda record, epoch: None
            )
            vectors = adapter.embed_given(adapter.load_adapter(out), given, *ids)
            rows.append(measure_test(*vectors, PREFIXES))
        print_rows(f"matryoshka {dims}", np.array(rows))


def measure_layers(work: Path, decay: float) -> None:
    """Print R@5 of the sample's baseline whose text tower was trained on the bank, rates decaying by `decay`."""
    tokenizer, fit = text.load_tokenizer(MODEL / "vocab.txt"), make_fit(TOWER | {"layer_decay": decay})
    captions = pairs.read_pair_set(CLEAN / "test").texts["caption"].to_pylist()
    rows = []
    for seed in SEEDS:
        model = load_model(MODEL)
        model.image_tower, model._own_pixels = nn.Identity(), False  # what it takes are vectors already
        batches = BankBatches(tokenizer, model.config["text"]["max_tokens"], fit, seed)
        trainer.train(
            model,
            batches.load,
            batches.steps,
            fit,
            seed=seed,
            checkpoint=work / str(seed),
            evaluate=lambda model: Measured({}, np.zeros(0)),
            log=lambda record, epoch: None,
        )
        texts = embed_captions(model.eval(), tokenizer, captions, fit.batch_size)
        rows.append(measure_test(np.load(EMBEDDED / "test/images.npy"), texts, []))
    print_rows(f"layer_decay {decay:g}", np.array(rows))


class BankBatches:
    """Batches of the bank's true pairs: the pictures' vectors by the baseline, and captions."""

    def __init__(self, tokenizer: Any, max_tokens: int, fit: Fit, seed: int) -> None:
        tables = pairs.read_pair_set(CLEAN / "bank")
        image, row = pairs.find_true_rows(tables)
        self._captions = tables.texts["caption"].take(row).to_pylist()
        self._images = torch.from_numpy(np.load(EMBEDDED / "bank/images.npy")[image])
        positives = tables.images["positive_id"].take(image).to_pylist()
        self._ids = hash_names(positives), hash_names(text.normalise_captions(self._captions, False))
        self._tokenizer, self._max_tokens, self._size, self._seed = tokenizer, max_tokens, fit.batch_size, seed
        self.steps = len(self._captions) // fit.batch_size

    def load(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """Yield an epoch's batches from `first_step` on."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._captions))
        for step in range(first_step, self.steps):
            rows = order[step * self._size : (step + 1) * self._size]
            ids, mask = text.tokenize(self._tokenizer, [self._captions[row] for row in rows], self._max_tokens)
            names = tuple(map(str, rows.tolist()))
            yield Batch(self._images[rows], ids, mask, *(one[rows] for one in self._ids), names)


def main() -> None:
    """Run one of the two."""
    with tempfile.TemporaryDirectory() as work:
        if sys.argv[1] == "prefixes":
            measure_prefixes(Path(work))
        else:
            measure_layers(Path(work), float(sys.argv[2]))


if __name__ == "__main__":
    main()
