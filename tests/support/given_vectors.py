"""A project whose model is vectors of another program, up to its embeddings: drawn images, vectors in `.npy`."""

import shutil
from pathlib import Path

import numpy as np
import torch

from tests.support.report_inputs import make
from tests.support.retrieval import write_training
from tuwen.core.params import Embed
from tuwen.data.formats import manifest, pairs
from tuwen.model import adapter
from tuwen.retrieval.embed import embed_set

DIM = 16
EMBED = Embed(batch_size=8, dtype="float32")
SETS = ("valid", "test", "bank")


def build_given_project(root: Path) -> Path:
    """Write data, the vectors in `inputs/vectors`, models over them and their embeddings into `root`.

    The heads of the fine-tuned model move the texts a little; those of the baseline nothing.
    """
    make(root)
    given, made = root / "inputs/vectors", root / "embeddings/finetuned/test"
    given.mkdir(parents=True)
    test = pairs.read_pair_set(root / "data/clean/test")
    for name, ids in (("images", test.images["image_id"]), ("texts", test.texts["text_id"])):
        np.save(given / f"{name}.npy", 3 * np.load(made / f"{name}.npy"))  # of any length
        (given / f"{name}.txt").write_text("\n".join(ids.to_pylist()) + "\n", encoding="utf-8")
    for folder in ("embeddings", "models", "results"):
        shutil.rmtree(root / folder)
    torch.manual_seed(0)
    for model, moved in (("baseline", 0.0), ("finetuned", 0.02)):
        heads, folder = adapter.Adapter(DIM), root / "models" / model
        torch.nn.init.normal_(heads.text_tower.weight, std=moved)
        adapter.save_adapter(heads, given, folder)
        write_training(folder / "training.json", 4)
        manifest.write_manifest(folder, {}, {})
        for name in SETS:
            embed_set(folder, root / "data/clean" / name, root / "embeddings" / model / name, EMBED)
    return root
