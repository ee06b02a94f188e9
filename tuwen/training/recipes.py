"""The three trainings: the baseline on the corpus, the fine-tuned model, and the one for the tasks.

Each writes a model folder (dual_encoder.py) with `training.json`, which has a record per epoch, and
`manifest.json`.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.core.params import Params
from tuwen.data.augment.views import Viewer, read_paraphrases
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.json_file import read_json
from tuwen.data.formats.text import Vocabulary, list_basic_characters, make_tokenizer
from tuwen.data.formats.tokens.token_stats import list_losses, measure_tokens
from tuwen.model import dual_encoder
from tuwen.model.stored_model import REMAKE, is_adapter
from tuwen.model.weights.load import make_start
from tuwen.training import distributed
from tuwen.training.checkpoint import remove_checkpoint
from tuwen.training.dataset import OnlineViews, StoredViews, Views
from tuwen.training.frozen import adapters
from tuwen.training.provenance import inputs
from tuwen.training.runner import Job, Log, run_training, write_untrained
from tuwen.training.selection import Measured
from tuwen.training.streaming import StreamedViews, read_banned, read_limits
from tuwen.training.streams.mixed import MixedViews
from tuwen.training.streams.shard_copies import open_shard_copies
from tuwen.training.validation import make_validator

VALID_BATCH_SIZE = 64  # of a model that is measured and not trained
CAPTION_SETS = ("corpus", "train", "valid", "test")  # of which is measured what a model does not see


class CorpusViews(NamedTuple):
    """The views that a baseline is pre-trained on: of pairs in tables, and of shards that are streamed."""

    stored: OnlineViews
    streamed: list[StreamedViews]


def open_corpus_views(clean: Path, params: Params) -> CorpusViews | None:
    """Open the tables that the baseline is pre-trained on; None where it is trained on none.

    Raises UserError where the corpus has no pair.
    """
    trains = params.baseline.fit is not None and params.baseline.start.kind != "embeddings"
    return _make_corpus_views(clean, params) if trains else None


def make_baseline(
    clean: Path, out: Path, params: Params, checkpoint: Path, log: Log, views: CorpusViews | None = None
) -> None:
    """Write the model of `baseline.start`, pre-trained on `clean/corpus` unless `baseline.fit` is null.

    Each epoch shows a new view of each pair. The records count the pairs of streamed shards that could not be
    shown, as `skipped_<reason>`. views: what `open_corpus_views` returned, where they are open already. Raises
    UserError where the corpus has no pair, or as load.py does.
    """
    if params.baseline.start.kind == "embeddings":
        if distributed.is_first():
            adapters.write_vector_baseline(params.baseline.start, clean, out)
            manifest.write_manifest(out, inputs.list_baseline_inputs(clean), inputs.list_baseline_settings(params))
        return
    fit, seed, origin = params.baseline.fit, params.baseline.seed, params.baseline.start.describe()
    views = views or open_corpus_views(clean, params)
    streamed = views.streamed if views else []
    encoder, vocabulary = make_start(params, lambda: _list_captions(clean, bool(streamed)))
    batch_size, frozen = (fit.batch_size, fit.freeze == "towers") if fit else (VALID_BATCH_SIZE, False)
    validate = make_validator(clean / "valid", encoder.picture_rule, batch_size, frozen=frozen)
    facts = {"captions": _measure_captions(clean, encoder, vocabulary)} if distributed.is_first() else {}
    if fit and views:
        mixed = MixedViews([views.stored, *streamed])
        job = Job(encoder, vocabulary, mixed, fit, seed, origin=origin, facts=facts, streams=streamed)
        wrote = run_training(job, out, checkpoint, validate, log)
    else:
        wrote = write_untrained(encoder, vocabulary, origin, out, validate, facts)
    if wrote:
        manifest.write_manifest(out, inputs.list_baseline_inputs(clean), inputs.list_baseline_settings(params))
        remove_checkpoint(checkpoint)


def _make_corpus_views(clean: Path, params: Params) -> CorpusViews:
    weights, policy = params.baseline.weights, params.baseline.policy
    assert policy  # core/params/root.py
    viewer = Viewer(policy, params.image.size_px, params.baseline.seed)
    by_source: dict[str, list[dict[str, Any]]] = {}
    for row in pairs.read_shards(clean / "corpus").to_pylist():
        by_source.setdefault(row["source"], []).append(row)
    streamed = []
    if by_source:
        banned, limits, copies = read_banned(clean), read_limits(clean), open_shard_copies()
        streamed = [
            StreamedViews(listed, viewer, limits, weight=weights.get(source, 1.0), banned=banned, copies=copies)
            for source, listed in by_source.items()
        ]
    stored = OnlineViews([clean / "corpus"], viewer, weights=weights, different=params.baseline.views)
    if not len(stored) and not any(map(len, streamed)):
        raise UserError(
            f"params.yaml: corpus: {clean / 'corpus'} has no pair, and the baseline is pre-trained on "
            "nothing else; name a source of pairs there (docs/data.md)"
        )
    return CorpusViews(stored, streamed)


def _list_captions(clean: Path, streamed: bool) -> Iterable[str]:
    """Yield the captions whose characters become the vocabulary: never those of valid and test."""
    for name in ("corpus", "train"):
        yield from pairs.read_pair_set(clean / name).texts["caption"].to_pylist()
    if streamed:
        yield list_basic_characters()


def _measure_captions(clean: Path, encoder: dual_encoder.DualEncoder, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return set -> what the model does not see of its captions; what is notable is printed as a warning."""
    text = encoder.config["text"]
    tokenizer = make_tokenizer(vocabulary, text.get("simplify", False))
    captions = {name: pairs.read_pair_set(clean / name).texts["caption"].to_pylist() for name in CAPTION_SETS}
    measured = {
        name: measure_tokens(tokenizer, listed, text["max_tokens"]) for name, listed in captions.items() if listed
    }
    for line in list_losses(measured):
        print(f"warning: {clean}/{line}", file=sys.stderr, flush=True)
    return measured


def make_finetuned(
    clean: Path,
    augmented: Path,
    baseline: Path,
    out: Path,
    params: Params,
    checkpoint: Path,
    log: Log,
    views: Views | None = None,
) -> None:
    """Train the baseline further, on views of train: stored or fresh ones, as `augment.mode` says.

    Where the baseline is vectors of another program, heads over them, on the pairs of train. views: what
    `open_labelled_views` returned, where they are open already.
    """
    if is_adapter(baseline):
        trained = params.finetune.fit, params.finetune.seed
        if adapters.train_adapter(clean, ["train"], baseline, out, *trained, checkpoint, log):
            made_from = inputs.list_finetune_inputs(clean, augmented, baseline)
            manifest.write_manifest(out, made_from, inputs.list_finetune_settings(params))
            remove_checkpoint(checkpoint)
        return
    encoder, fit = dual_encoder.load_model(baseline), params.finetune.fit
    if views is None:
        views = make_labelled_views(clean, augmented, ["train"], params, encoder.config["image"]["size_px"])
    vocabulary = dual_encoder.read_vocabulary(baseline)
    frozen = fit.freeze == "towers"
    validate = make_validator(clean / "valid", encoder.picture_rule, fit.batch_size, frozen=frozen)
    job = Job(encoder, vocabulary, views, fit, params.finetune.seed, baseline)
    if run_training(job, out, checkpoint, validate, log):
        manifest.write_manifest(
            out, inputs.list_finetune_inputs(clean, augmented, baseline), inputs.list_finetune_settings(params)
        )
        remove_checkpoint(checkpoint)


def make_refitted(
    clean: Path,
    augmented: Path,
    baseline: Path,
    out: Path,
    params: Params,
    checkpoint: Path,
    log: Log,
    views: Views | None = None,
    *,
    tuned: Path,
) -> None:
    """Train the baseline further as `make_finetuned` does, but on the views of all of `augment.splits`.

    It is never measured: it may have seen valid and test. It takes the state that was chosen for the fine-tuned
    model in `tuned`: that epoch, that mean of weights. `training.json` names the splits as `refit`. views: as in
    `make_finetuned`.
    """
    splits = params.augment.splits
    if is_adapter(baseline):
        trained, facts = (params.finetune.fit, params.finetune.seed), {"refit": splits}
        choice = inputs.read_choice(tuned)
        if adapters.train_adapter(
            clean, splits, baseline, out, *trained, checkpoint, log, chosen=choice, facts=facts
        ):
            made_from = inputs.list_refit_inputs(clean, augmented, baseline, splits)
            manifest.write_manifest(out, made_from, inputs.list_refit_settings(params, tuned))
            remove_checkpoint(checkpoint)
        return
    encoder = dual_encoder.load_model(baseline)
    fit, seed = params.finetune.fit, params.finetune.seed
    if views is None:
        views = make_labelled_views(clean, augmented, splits, params, encoder.config["image"]["size_px"])
    vocabulary, chosen = dual_encoder.read_vocabulary(baseline), inputs.read_choice(tuned)
    job = Job(encoder, vocabulary, views, fit, seed, baseline, chosen, facts={"refit": splits})
    if run_training(job, out, checkpoint, _skip_measuring, log):
        made_from = inputs.list_refit_inputs(clean, augmented, baseline, splits)
        manifest.write_manifest(out, made_from, inputs.list_refit_settings(params, tuned))
        remove_checkpoint(checkpoint)


def _skip_measuring(encoder: dual_encoder.DualEncoder, tokenizer: Any) -> Measured:
    return Measured({}, np.zeros(0))


def open_labelled_views(
    clean: Path, augmented: Path, baseline: Path, splits: Sequence[str], params: Params
) -> Views | None:
    """Open the tables that the baseline is trained further on; None where it is vectors of another program.

    Raises UserError where a table or the baseline's config.json is missing.
    """
    if is_adapter(baseline):
        return None
    config = read_json(baseline / "config.json", REMAKE)
    return make_labelled_views(clean, augmented, splits, params, config["image"]["size_px"])


def make_labelled_views(
    clean: Path, augmented: Path, splits: Sequence[str], params: Params, size_px: int
) -> Views:
    """Return the views of the labelled pairs of `splits`: stored or fresh ones, as `augment.mode` says."""
    if params.augment.mode == "stored":
        return StoredViews(augmented, splits)
    viewer = Viewer(params.augment.policy, size_px, params.augment.seed)
    return OnlineViews([clean / name for name in splits], viewer, paraphrases=read_paraphrases(augmented))
