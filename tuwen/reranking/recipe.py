"""The training of the re-ranker: from the fine-tuned model and views to a model folder.

The folder is the fine-tuned dual encoder's with the cross encoder beside it (model/reranker.py), `training.json`,
a record per epoch, and `manifest.json`. With `rerank: null` it holds `manifest.json` alone.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from tuwen.core.errors import UserError
from tuwen.core.params import Params, Rerank
from tuwen.data.augment.views import Viewer
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.json_file import read_json, write_json
from tuwen.data.formats.text import load_tokenizer
from tuwen.model import card, dual_encoder
from tuwen.model.cross_encoder import CrossEncoder
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.precision import choose_precision
from tuwen.model.reranker import make_cross_encoder, save_reranker
from tuwen.model.stored_model import REMAKE
from tuwen.reranking.joint import JointModel
from tuwen.reranking.objective import Matching
from tuwen.reranking.validation import make_rerank_validator
from tuwen.training import distributed, trainer
from tuwen.training.checkpoint import remove_checkpoint
from tuwen.training.dataset import OnlineViews, Views
from tuwen.training.distillation.hidden_words import find_words
from tuwen.training.loader import load_batches
from tuwen.training.recipes import make_labelled_views
from tuwen.training.runner import Log, describe_machine
from tuwen.training.streams.mixed import MixedViews

DECIDING_CODE = ("data/augment", "data/formats", "model", "reranking", "retrieval", "training")


def list_rerank_inputs(clean: Path, augmented: Path, tuned: Path, params: Params) -> dict[str, Path]:
    """Return what the re-ranker is made from; `augmented` names the sets that its views are of."""
    assert params.rerank
    inputs = {"augmented": augmented, "finetuned": tuned, "valid": clean / "valid"}
    return inputs | ({"corpus": clean / "corpus"} if params.rerank.corpus else {})


def list_rerank_settings(params: Params) -> dict[str, Any]:
    """Return the params that decide the re-ranker, given its inputs."""
    assert params.rerank
    views = {"mode"} if params.augment.mode == "stored" else {"mode", "policy", "seed"}
    settings = {"rerank": params.rerank.model_dump(), "augment": params.augment.model_dump(include=views)}
    if params.rerank.corpus:
        settings["baseline"] = params.baseline.model_dump(include={"policy", "seed"})
    return settings


def open_rerank_views(clean: Path, augmented: Path, tuned: Path, params: Params) -> Views:
    """Open the tables that the re-ranker is trained on.

    Raises UserError where a table or the config.json in `tuned` is missing, or the corpus is to be shown and has
    no pair.
    """
    assert params.rerank
    config = read_json(tuned / "config.json", REMAKE)
    return _make_views(clean, augmented, params, params.rerank, config["image"]["size_px"])


def make_reranked(
    clean: Path,
    augmented: Path,
    tuned: Path,
    out: Path,
    params: Params,
    checkpoint: Path,
    log: Log,
    views: Views | None = None,
) -> None:
    """Train a cross encoder over the towers of the model in `tuned`, which stay as they are or are trained too.

    views: what `open_rerank_views` returned, where they are open already; else raises as it does.
    """
    assert params.rerank
    dual = dual_encoder.load_model(tuned)
    if views is None:
        views = open_rerank_views(clean, augmented, tuned, params)
    if _train(dual, views, clean / "valid", tuned, out, params.rerank, checkpoint, log):
        inputs = list_rerank_inputs(clean, augmented, tuned, params)
        manifest.write_manifest(out, inputs, list_rerank_settings(params))
        remove_checkpoint(checkpoint)


def _make_views(clean: Path, augmented: Path, params: Params, settings: Rerank, size_px: int) -> Views:
    """Return views of train, and where the settings ask for it fresh ones of the stored pairs of the corpus."""
    labelled = make_labelled_views(clean, augmented, ["train"], params, size_px)
    if not settings.corpus:
        return labelled
    assert params.baseline.policy  # core/params/root.py, as that no shard of the corpus is streamed
    viewer = Viewer(params.baseline.policy, size_px, params.baseline.seed)
    sources = pairs.read_pair_set(clean / "corpus").images["source"].unique().to_pylist()
    if not sources:
        raise UserError(f"params.yaml: rerank.corpus: {clean / 'corpus'} has no pair to show; set it to 0.0")
    corpus = OnlineViews([clean / "corpus"], viewer, weights=dict.fromkeys(sources, settings.corpus))
    return MixedViews([labelled, corpus])


def _train(
    dual: DualEncoder,
    views: Views,
    valid: Path,
    tuned: Path,
    out: Path,
    settings: Rerank,
    checkpoint: Path,
    log: Log,
) -> bool:
    """Write the folder; return whether this process, the first one, did."""
    fit, tokenizer = settings.fit, load_tokenizer(tuned / "vocab.txt")
    torch.manual_seed(settings.seed)
    cross = make_cross_encoder(dual, describe_layers(dual, settings))
    model = JointModel(dual, cross) if settings.towers == "trained" else cross
    words = find_words(dual_encoder.read_vocabulary(tuned), f"{tuned / 'vocab.txt'}:")
    validate = make_rerank_validator(valid, dual, tokenizer, settings.k)
    training = trainer.train(
        model,
        _make_batches(views, tokenizer, dual, settings),
        len(views) // fit.batch_size,
        fit,
        seed=settings.seed,
        checkpoint=checkpoint,
        evaluate=validate,
        log=log,
        objective=Matching(dual, settings, words),
    )
    if not distributed.is_first():
        return False
    chosen, candidates = training.select(None, validate)
    _save(model, tuned, out)
    facts = {"pairs": len(views), "steps": training.done, "selected": chosen.describe(), "candidates": candidates}
    facts |= {
        "ran": {"precision": choose_precision(fit.precision)} | describe_machine(),
        "epochs": training.records,
    }
    write_json(out / "training.json", facts)
    card.write_card(out, dual.config, _describe_origin(settings), facts)
    return True


def _save(model: CrossEncoder | JointModel, tuned: Path, out: Path) -> None:
    if isinstance(model, JointModel):
        dual_encoder.save_model(model.dual, out, dual_encoder.read_vocabulary(tuned))
        save_reranker(model.cross, out, out)
    else:
        save_reranker(model, tuned, out)


def _describe_origin(settings: Rerank) -> str:
    layers = f"a cross encoder ({settings.fusion}, layers {settings.layers})"
    trained = f"trained further together with {layers}, which ranks its first {settings.k} answers once more"
    frozen = f"whose first {settings.k} answers {layers} ranks once more"
    return f"the fine-tuned model of this pipeline, {trained if settings.towers == 'trained' else frozen}"


def describe_layers(dual: DualEncoder, settings: Rerank) -> dict[str, Any]:
    """Return the settings of the layers as cross_encoder.py has them, the text tower's shape for what is null."""
    tower: Any = dual.text_tower
    shape = {"width": tower.shape.width, "heads": tower.shape.heads, "mlp": tower.shape.mlp}
    names = {"fusion", "layers", "width", "heads", "mlp", "dropout", "image_tokens"}
    given = settings.model_dump(include=names)
    return given | {name: value for name, value in shape.items() if given[name] is None}


def _make_batches(views: Views, tokenizer: Any, dual: DualEncoder, settings: Rerank) -> trainer.Batches:
    load = partial(
        load_batches,
        views,
        tokenizer,
        max_tokens=dual.config["text"]["max_tokens"],
        batch_size=settings.fit.batch_size,
        seed=settings.seed,
        rank=distributed.get_rank(),
        ranks=distributed.count_ranks(),
    )
    return lambda epoch, first_step: load(epoch=epoch, first_step=first_step)
