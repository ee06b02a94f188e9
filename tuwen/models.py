"""The three trainings: the baseline on the corpus, the fine-tuned model, and the one for the tasks.

Each writes a model folder (tuwen/model.py) with `training.json`, one record per epoch, and `manifest.json`.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tuwen import card, manifest, model, pairs, train
from tuwen.embed import embed_captions, embed_pictures, read_pictures
from tuwen.errors import UserError
from tuwen.feed import Mixed, OnlineViews, StoredViews, Views, batches
from tuwen.params import Fit, Params
from tuwen.recall import hits, judge
from tuwen.start import start
from tuwen.stream import StreamedViews, basic_characters
from tuwen.text import load_tokenizer
from tuwen.views import Viewer, read_paraphrases

Log = Callable[[train.Record, int], None]
Figures = Callable[[model.DualEncoder, Any], train.Record]  # of a model and its tokenizer, after an epoch
VALID_KS = (5,)
VALID_BATCH = 64  # of a model that is measured and not trained
BASELINE = "the baseline of this pipeline"


def baseline_inputs(clean: Path) -> dict[str, Path]:
    """What the baseline is made from; test only so that none of its pictures is trained on."""
    return {name: clean / name for name in ("corpus", "train", "valid", "test")}


def baseline_settings(params: Params) -> dict[str, Any]:
    """The params that decide the baseline; the revision of published weights is one of them."""
    groups = {"image": params.image, "text": params.text, "model": params.model, "baseline": params.baseline}
    limits = params.validate_.model_dump(include={"max_chars", "max_pixels", "min_side_px"})
    return {name: group.model_dump() if group else None for name, group in groups.items()} | {"validate": limits}


def make_baseline(clean: Path, out: Path, params: Params, checkpoint: Path, log: Log) -> None:
    """The weights of `baseline.start`, pre-trained on `clean/corpus` where `baseline.fit` says how.

    Each epoch shows a new view of each pair. The records count the pairs of streamed shards that could not be
    shown, as `skipped_<reason>`. Raises UserError where the corpus has no pair, or as tuwen/weights.py does.
    """
    fit, size_px = params.baseline.fit, params.image.size_px
    stored, streamed = _corpus_views(clean, params) if fit else (None, [])
    encoder, vocabulary = start(params, lambda: _spelt(clean, bool(streamed)))
    on_valid = _on_valid(clean / "valid", size_px, fit.batch_size if fit else VALID_BATCH)
    origin = params.baseline.start.said()
    if fit and stored:

        def figures(encoder: model.DualEncoder, tokenizer: Any) -> train.Record:
            return on_valid(encoder, tokenizer) | _skipped(streamed)

        views, seed = Mixed([stored, *streamed]), params.baseline.seed
        _train(encoder, vocabulary, views, fit, seed, out, checkpoint, figures, log, origin)
    else:
        model.save(encoder, out, vocabulary)
        valid = on_valid(encoder.to(model.device()), load_tokenizer(out / "vocab.txt"))
        _describe(out, encoder, origin, {"pairs": 0, "steps": 0, "valid": valid, "epochs": []})
    manifest.write(out, baseline_inputs(clean), baseline_settings(params))
    train.remove_checkpoint(checkpoint)


def _corpus_views(clean: Path, params: Params) -> tuple[OnlineViews, list[StreamedViews]]:
    shown, policy = params.baseline.weights, params.baseline.policy
    assert policy  # tuwen/params.py
    viewer = Viewer(policy, params.image.size_px, params.baseline.seed)
    by_source: dict[str, list[dict[str, Any]]] = {}
    for row in pairs.read_shards(clean / "corpus").to_pylist():
        by_source.setdefault(row["source"], []).append(row)
    banned = {
        digest for name in ("valid", "test") for digest in pairs.read(clean / name).images["sha256"].to_pylist()
    }
    streamed = [
        StreamedViews(listed, viewer, params.validate_, weight=shown.get(source, 1.0), banned=banned)
        for source, listed in by_source.items()
    ]
    stored = OnlineViews([clean / "corpus"], viewer, weights=shown)
    if not len(stored) and not any(map(len, streamed)):
        raise UserError(
            f"params.yaml: corpus: {clean / 'corpus'} has no pair, and the baseline is pre-trained on "
            "nothing else; name a source of pairs there (docs/data.md)"
        )
    return stored, streamed


def _spelt(clean: Path, streamed: bool) -> Iterable[str]:
    """The texts whose characters become the vocabulary: never those of valid and test."""
    for name in ("corpus", "train"):
        yield from pairs.read(clean / name).texts["caption"].to_pylist()
    if streamed:
        yield basic_characters()


def _skipped(streamed: list[StreamedViews]) -> train.Record:
    counts = sum((views.skipped for views in streamed), Counter[str]())
    return {f"skipped_{reason}": count for reason, count in sorted(counts.items())}


def finetune_inputs(clean: Path, augmented: Path, baseline: Path) -> dict[str, Path]:
    """What the fine-tuned model is made from; `augmented` names the sets that its views are of."""
    return {"augmented": augmented, "baseline": baseline, "valid": clean / "valid"}


def finetune_settings(params: Params) -> dict[str, Any]:
    """The params that decide the fine-tuned model, given its inputs; the refit is no part of it."""
    return {"finetune": params.finetune.model_dump(exclude={"refit_all"})}


def make_finetuned(
    clean: Path, augmented: Path, baseline: Path, out: Path, params: Params, checkpoint: Path, log: Log
) -> None:
    """Train the baseline on over views of train, stored ones or fresh ones as `augment.mode` says."""
    encoder, fit = model.load(baseline), params.finetune.fit
    size_px = encoder.config["image"]["size_px"]
    views = _labelled_views(clean, augmented, ["train"], params, size_px)
    vocabulary = model.read_vocabulary(baseline)
    on_valid = _on_valid(clean / "valid", size_px, fit.batch_size)
    _train(encoder, vocabulary, views, fit, params.finetune.seed, out, checkpoint, on_valid, log, BASELINE)
    manifest.write(out, finetune_inputs(clean, augmented, baseline), finetune_settings(params))
    train.remove_checkpoint(checkpoint)


def refit_inputs(augmented: Path, baseline: Path) -> dict[str, Path]:
    """What the refitted model is made from; `augmented` names the sets that its views are of."""
    return {"augmented": augmented, "baseline": baseline}


def refit_settings(params: Params) -> dict[str, Any]:
    """The params that decide the refitted model, given its inputs."""
    return finetune_settings(params) | {"refit": params.augment.splits}


def make_refitted(
    clean: Path, augmented: Path, baseline: Path, out: Path, params: Params, checkpoint: Path, log: Log
) -> None:
    """Train the baseline on as `make_finetuned` does, but over the views of all of `augment.splits`.

    It is never measured: it may have seen valid and test. `training.json` names the splits as `refit`.
    """
    encoder, splits = model.load(baseline), params.augment.splits
    views = _labelled_views(clean, augmented, splits, params, encoder.config["image"]["size_px"])
    vocabulary, fit = model.read_vocabulary(baseline), params.finetune.fit
    seed = params.finetune.seed
    _train(encoder, vocabulary, views, fit, seed, out, checkpoint, _unmeasured, log, BASELINE, refit=splits)
    manifest.write(out, refit_inputs(augmented, baseline), refit_settings(params))
    train.remove_checkpoint(checkpoint)


def copy(made: Path, out: Path) -> None:
    """Make `out` the very model that lies in `made`."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(made, out, copy_function=shutil.copyfile)  # not its mode: DVC keeps what it cached read-only


def _labelled_views(clean: Path, augmented: Path, splits: Sequence[str], params: Params, size_px: int) -> Views:
    if params.augment.mode == "stored":
        return StoredViews(augmented, splits)
    viewer = Viewer(params.augment.policy, size_px, params.augment.seed)
    return OnlineViews([clean / name for name in splits], viewer, paraphrases=read_paraphrases(augmented))


def _train(
    encoder: model.DualEncoder,
    vocabulary: list[str],
    views: Views,
    fit: Fit,
    seed: int,
    out: Path,
    checkpoint: Path,
    figures: Figures,
    log: Log,
    origin: str,
    **said: Any,
) -> None:
    """Train `encoder` and write it to `out`; origin: for its card; said: what training.json holds besides."""
    model.save(encoder, out, vocabulary)  # the tokenizer is read from the file that the model will be used with
    tokenizer = load_tokenizer(out / "vocab.txt")
    longest = encoder.config["text"]["max_tokens"]
    steps = len(views) // fit.batch_size
    records = train.train(
        encoder,
        lambda epoch: batches(
            views, tokenizer, max_tokens=longest, batch_size=fit.batch_size, seed=seed, epoch=epoch
        ),
        steps,
        fit,
        seed=seed,
        checkpoint=checkpoint,
        evaluate=lambda trained: figures(trained, tokenizer),
        log=log,
    )
    model.save(encoder, out, vocabulary)
    _describe(out, encoder, origin, {"pairs": len(views), "steps": steps * fit.epochs, **said, "epochs": records})


def _describe(out: Path, encoder: model.DualEncoder, origin: str, training: dict[str, Any]) -> None:
    (out / "training.json").write_text(json.dumps(training, indent=1) + "\n")
    card.write(out, encoder.config, origin, training)


def _unmeasured(encoder: model.DualEncoder, tokenizer: Any) -> train.Record:
    return {}


def _on_valid(valid: Path, size_px: int, batch_size: int) -> Figures:
    """hit@5 of a model on the valid set, both directions; pictures are decoded once."""
    pair_set = pairs.read(valid)
    pictures = read_pictures(valid.parent.parent, pair_set, size_px)
    captions = pair_set.texts["caption"].to_pylist()
    image_row, text_row = pairs.true_rows(pair_set)

    def evaluate(encoder: model.DualEncoder, tokenizer: Any) -> train.Record:
        images = embed_pictures(encoder, pictures, batch_size)
        texts = embed_captions(encoder, tokenizer, captions, batch_size)
        i2t = judge(images, texts, image_row, text_row, VALID_KS)
        t2i = judge(texts, images, text_row, image_row, VALID_KS)
        return {
            f"valid_{direction}_hit_at_5": hits(judged.best_rank, VALID_KS).mean().item()
            for direction, judged in (("i2t", i2t), ("t2i", t2i))
        }

    return evaluate
