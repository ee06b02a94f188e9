"""One training from views to a model folder: batches, loop, selection, and training.json about all of them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from tuwen.core.params import Fit
from tuwen.data.formats.json_file import write_json
from tuwen.data.formats.text import Vocabulary, load_tokenizer
from tuwen.model import card, device, dual_encoder
from tuwen.model.precision import choose_precision
from tuwen.model.state_dict import State
from tuwen.training import distributed, trainer
from tuwen.training.checkpoint import Stream
from tuwen.training.dataset import Views
from tuwen.training.distillation.features import FeatureGuidance
from tuwen.training.distillation.hidden_words import find_words
from tuwen.training.frozen.pooled_views import PooledViews
from tuwen.training.frozen.projections import Projections
from tuwen.training.loader import load_batches
from tuwen.training.negatives.expected import number_names, report_batch
from tuwen.training.objective import Contrastive, EpochRecord, Objective
from tuwen.training.selection import Choice, Validator

Log = Callable[[EpochRecord, int], None]


class Job(NamedTuple):
    """What is trained, on what, and how.

    baseline: the folder that `encoder` was loaded from, for means of weights. chosen: the state to take without
    measuring. origin: of the first weights, in words, for the model's card. facts: more entries of training.json.
    streams: those of `views` whose places a checkpoint keeps.
    """

    encoder: dual_encoder.DualEncoder
    vocabulary: Vocabulary
    views: Views
    fit: Fit
    seed: int
    baseline: Path | None = None
    chosen: Choice | None = None
    origin: str = "the baseline of this pipeline"
    facts: Mapping[str, Any] = {}
    streams: Sequence[Stream] = ()


def run_training(job: Job, out: Path, checkpoint: Path, validate: Validator, log: Log) -> bool:
    """Train `job.encoder` and write it to `out` with training.json.

    Returns whether this process, the first one, wrote it. SystemExit and UserError are those of `trainer.train`;
    UserError too where words are to be hidden and the vocabulary has nothing to hide them by.
    """
    objective = _make_objective(job)
    set_prefixes(job.encoder.config, job.fit.matryoshka)
    _add_bias(job.encoder, job.fit)
    if distributed.is_first():
        # also so that the tokenizer is read from the very file that it will be used with
        dual_encoder.save_model(job.encoder, out, job.vocabulary)
    distributed.broadcast_first(None)  # the others read it after that
    tokenizer = load_tokenizer(out / "vocab.txt")
    fit, steps = job.fit, len(job.views) // job.fit.batch_size
    batch = _report_batch(job, tokenizer.simplify, log) if distributed.is_first() else {}
    training = trainer.train(
        job.encoder,
        _make_batches(job, tokenizer),
        steps,
        fit,
        seed=job.seed,
        checkpoint=checkpoint,
        evaluate=lambda encoder: validate(encoder, tokenizer),
        log=log,
        until=job.chosen.epoch if job.chosen else None,
        objective=objective,
        streams=job.streams,
    )
    if not distributed.is_first():
        return False
    chosen, candidates = job.chosen, list[dict[str, Any]]()
    baseline = _read_baseline(job)
    if chosen:
        training.take_choice(chosen, baseline)
    else:
        chosen, candidates = training.select(baseline, lambda encoder: validate(encoder, tokenizer))
    dual_encoder.save_model(job.encoder, out, job.vocabulary)
    facts = {"pairs": len(job.views), "steps": steps * training.epochs, **job.facts, "batch": batch}
    facts |= {"selected": chosen.describe()}
    facts |= {"candidates": candidates, "ran": {"precision": choose_precision(fit.precision)} | describe_machine()}
    facts |= {"epochs": training.records}
    _write_facts(job.encoder, job.origin, out, facts)
    return True


def set_prefixes(config: dict[str, Any], dims: Sequence[int]) -> None:
    """Say in a model's config which first dimensions are trained to answer by themselves; none: say nothing."""
    config.pop("matryoshka", None)
    if dims:
        config["matryoshka"] = list(dims)


def write_untrained(
    encoder: dual_encoder.DualEncoder,
    vocabulary: Vocabulary,
    origin: str,
    out: Path,
    validate: Validator,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> bool:
    """Write `encoder` to `out` as it is, measured once as epoch 0; facts: more entries of training.json.

    Returns whether this process, the first one, wrote it.
    """
    if not distributed.is_first():
        return False
    dual_encoder.save_model(encoder, out, vocabulary)
    measured = validate(encoder.to(device.choose_device()), load_tokenizer(out / "vocab.txt")).figures
    valid = {name: round(value, 6) for name, value in measured.items()}
    facts = {"pairs": 0, "steps": 0, **facts, "valid": valid, "ran": describe_machine(), "epochs": []}
    _write_facts(encoder, origin, out, facts)
    return True


def describe_machine() -> dict[str, Any]:
    """Return what computed the weights, as training.json has it: the last bits depend on it."""
    name = torch.cuda.get_device_name() if device.choose_device() == "cuda" else "cpu"
    return {"device": name, "processes": distributed.count_ranks(), "torch": str(torch.__version__)}


def _write_facts(encoder: dual_encoder.DualEncoder, origin: str, out: Path, facts: Mapping[str, Any]) -> None:
    write_json(out / "training.json", facts)
    card.write_card(out, encoder.config, origin, facts)


def _add_bias(encoder: dual_encoder.DualEncoder, fit: Fit) -> None:
    """Give the model what SigLIP's loss learns beside the temperature, unless it has it."""
    if fit.sigmoid and encoder.logit_bias is None:
        encoder.config = encoder.config | {"sigmoid": True}
        encoder.logit_bias = torch.nn.Parameter(torch.tensor(dual_encoder.START_BIAS))


def _read_baseline(job: Job) -> State | None:
    """Return the weights that those of a training are mixed with, if they are."""
    if not (job.baseline and job.fit.select.wise_ft):
        return None
    encoder = dual_encoder.load_model(job.baseline)
    _add_bias(encoder, job.fit)
    return encoder.state_dict()


def _report_batch(job: Job, simplify: bool, log: Log) -> dict[str, float]:
    table = job.views.list_names(job.seed)
    names = None if table is None else number_names(table, simplify)
    contrastive = job.encoder.logit_bias is None and not job.fit.distil
    return report_batch(names, job.fit, log, softmax=contrastive)


def _make_objective(job: Job) -> Objective:
    if job.fit.freeze == "towers":
        return Projections(job.fit)
    distil = job.fit.distil
    if not (distil and distil.fgd):
        return Contrastive(job.fit)
    place = "params.yaml: baseline.fit or finetune.fit: distil.fgd must be 0: the model's tokenizer"
    return Contrastive(job.fit, FeatureGuidance(distil, find_words(job.vocabulary, place), job.seed))


def _make_batches(job: Job, tokenizer: Any) -> trainer.Batches:
    place = {"seed": job.seed, "rank": distributed.get_rank(), "ranks": distributed.count_ranks()}
    if job.fit.freeze == "towers":
        pooled = partial(PooledViews(job.views, job.encoder, tokenizer, job.fit).load_batches, **place)
        return lambda epoch, first_step: pooled(epoch=epoch, first_step=first_step)
    load = partial(
        load_batches,
        job.views,
        tokenizer,
        max_tokens=job.encoder.config["text"]["max_tokens"],
        batch_size=job.fit.batch_size,
        **place,
        apart=job.fit.siblings == "apart",
    )
    return lambda epoch, first_step: load(epoch=epoch, first_step=first_step)
