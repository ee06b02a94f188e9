"""The set of retrieval.py with real models: a small dual encoder, its vectors, and a re-ranker without training.

Its cross-attention is not zero, so that it puts the first answers in an order of its own.
"""

import functools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from tests.support.retrieval import build
from tuwen.core.params import Embed
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.json_file import write_json
from tuwen.data.formats.text import build_vocabulary
from tuwen.model.dual_encoder import DualEncoder, load_model, read_vocabulary, save_model
from tuwen.model.reranker import make_cross_encoder, save_reranker
from tuwen.retrieval.embed import embed_set

DEPTH = 6
CONFIG: dict[str, Any] = {
    "dim": 16,
    "image": {"size_px": 16, "patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.0},
    "text": {"width": 64, "layers": 1, "dropout": 0.0, "max_tokens": 24},
}
LAYERS: dict[str, Any] = {
    **{"fusion": "both", "layers": 1, "width": 64, "heads": 1, "mlp": 256, "dropout": 0.0, "image_tokens": None}
}


def build_reranked(root: Path, unfit: int = 0) -> Path:
    """Write what comes before `evaluate@reranked` and `predict` into `root`, the current directory.

    unfit: pairs of valid and test that are known not to fit.
    """
    build(root)
    if unfit:
        for name in ("valid", "test"):
            _add_unfit(root / "data/clean" / name, unfit)
    model = root / "models/finetuned"
    captions = pairs.read_pair_set(root / "data/clean/test").texts["caption"].to_pylist()
    vocabulary = build_vocabulary(captions)
    torch.manual_seed(0)
    dual = DualEncoder(CONFIG | {"vocabulary": len(vocabulary)})
    save_model(dual, model, vocabulary)
    manifest.write_manifest(model, {}, {})
    shutil.rmtree(root / "models/final")
    shutil.copytree(model, root / "models/final")
    for name, sets in (("finetuned", ("valid", "test", "bank")), ("final", ("t2i", "i2t", "bank"))):
        for one in sets:
            out = root / "embeddings" / name / one
            shutil.rmtree(out)
            embed_set(root / "models" / name, root / "data/clean" / one, out, Embed(batch_size=8, dtype="float32"))
    add_reranker(root)
    return root


def add_reranker(root: Path, layers: int = 1) -> None:
    """Write models/reranked over the dual encoder in models/finetuned; of two layers it tells where a word is."""
    model, out = root / "models/finetuned", root / "models/reranked"
    torch.manual_seed(0)
    cross = make_cross_encoder(load_model(model), LAYERS | {"layers": layers})
    for parameter in cross.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_reranker(cross, model, out)
    shutil.copy(root / "models/baseline/training.json", out)
    write_rerank_manifest(out, model, "frozen")


def write_choices(root: Path, choices: dict[str, tuple[int, float]], sure: Sequence[str] = ("t2i", "i2t")) -> None:
    """Write details.json of the re-ranked model: depth and weight by direction, and where valid is sure."""
    reranking = {
        name: {"k": k, "weight": weight, "sure_on_valid": name in sure, "curve": []}
        for name, (k, weight) in choices.items()
    }
    (root / "results/reranked").mkdir(parents=True)
    write_json(root / "results/reranked/details.json", {"reranking": reranking})


def write_rerank_manifest(folder: Path, tuned: Path, towers: str) -> None:
    """Write what the folder of a re-ranker says of its training: what it began from, and its settings."""
    manifest.write_manifest(folder, {"finetuned": tuned}, {"rerank": {"k": DEPTH, "towers": towers}})


def move_towers(root: Path) -> None:
    """Give the re-ranker towers of its own, as a training of both does; embeddings/own has their vectors."""
    model = root / "models/reranked"
    dual = load_model(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in dual.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    save_model(dual, model, read_vocabulary(model))
    write_rerank_manifest(model, root / "models/finetuned", "trained")
    for name in ("valid", "test", "bank", "t2i", "i2t"):
        embed_set(
            model,
            root / "data/clean" / name,
            root / "embeddings/own" / name,
            Embed(batch_size=64, dtype="float32"),
        )


def _add_unfit(folder: Path, count: int) -> None:
    """Add the pairs of image n and a text of image n + 1, label 0."""
    tables = pairs.read_pair_set(folder)
    rows = tables.pairs.to_pylist()
    unfit = []
    for n in range(count):
        names = {"pair_id": f"u{n:02d}", "image_id": f"图{n:02d}.png", "text_id": f"name-{(n + 1) % 12:02d}"}
        unfit.append(rows[0] | names | {"label": 0})
    table = pa.Table.from_pylist(rows + unfit, tables.pairs.schema)
    pairs.write_pair_set(folder, pairs.PairSet(tables.images, tables.texts, table))


@functools.cache
def score_all(root: Path, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the cosine and the probability of every text and image of a set, [T, I], each pair for itself."""
    from tuwen.data.formats.images import make_pixel_tensor
    from tuwen.data.formats.picture_rule import PictureRule
    from tuwen.data.formats.text import load_tokenizer, tokenize
    from tuwen.model.reranker import load_reranker
    from tuwen.retrieval.encode import read_images

    dual, cross = load_reranker(root / "models/reranked")
    tables = pairs.read_pair_set(root / "data/clean" / name)
    pixels = make_pixel_tensor(read_images(root / "data", tables, PictureRule(CONFIG["image"]["size_px"])))
    tokenizer = load_tokenizer(root / "models/reranked/vocab.txt")
    with torch.inference_mode():
        _, tokens_IPW = dual.encode_image_tokens(pixels)
        rows = []
        for caption in tables.texts["caption"].to_pylist():
            ids, mask = tokenize(tokenizer, [caption], CONFIG["text"]["max_tokens"])
            _, text_1LW = dual.encode_text_tokens(ids, mask)
            output = cross(tokens_IPW, text_1LW.expand(len(pixels), -1, -1), mask.expand(len(pixels), -1))
            rows.append(cross.score_matches(output).numpy())
    folders = [root / "embeddings" / model / name for model in ("own", "finetuned", "final")]
    embedded = next(folder for folder in folders if folder.is_dir())
    images, texts = (np.load(embedded / f"{side}.npy").astype(np.float64) for side in ("images", "texts"))
    return texts @ images.T, np.stack(rows).astype(np.float64)
