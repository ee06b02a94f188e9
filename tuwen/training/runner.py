"""One training from views to a model folder: feed, loop, selection, and what training.json says of them."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tuwen.core.params import Fit
from tuwen.data.formats.json_file import write_json
from tuwen.data.formats.text import load_tokenizer
from tuwen.model import card, device, dual_encoder
from tuwen.training import distributed, trainer
from tuwen.training.dataset import Views
from tuwen.training.loader import load_batches
from tuwen.training.selection import Choice, Measured

Log = Callable[[trainer.EpochRecord, int], None]
Figures = Callable[[dual_encoder.DualEncoder, Any], Measured]  # of a model and its tokenizer, after an epoch


class Job(NamedTuple):
    """What is trained on what.

    baseline: the folder that `start` was loaded from, for means of weights. chosen: the state to take without
    measuring. origin: of the first weights, for the model's card. said: what training.json holds besides.
    """

    start: dual_encoder.DualEncoder
    vocabulary: list[str]
    views: Views
    fit: Fit
    seed: int
    baseline: Path | None = None
    chosen: Choice | None = None
    origin: str = "the baseline of this pipeline"
    said: Mapping[str, Any] = {}


def run_training(job: Job, out: Path, checkpoint: Path, figures: Figures, log: Log) -> bool:
    """Train `job.start` and write it to `out` with training.json; whether this process wrote it, the first one."""
    if distributed.is_first():
        dual_encoder.save_model(
            job.start, out, job.vocabulary
        )  # the tokenizer is read from the file it will be used with
    distributed.from_first(None)  # nobody reads before that
    tokenizer = load_tokenizer(out / "vocab.txt")
    fit, steps = job.fit, len(job.views) // job.fit.batch_size
    training = trainer.train(
        job.start,
        _batches(job, tokenizer),
        steps,
        fit,
        seed=job.seed,
        checkpoint=checkpoint,
        evaluate=lambda encoder: figures(encoder, tokenizer),
        log=log,
        until=job.chosen.epoch if job.chosen else None,
    )
    if not distributed.is_first():
        return False
    chosen, candidates = job.chosen, list[dict[str, Any]]()
    baseline = dual_encoder.load_model(job.baseline).state_dict() if job.baseline and fit.select.wise_ft else None
    if chosen:
        training.take(chosen, baseline)
    else:
        chosen, candidates = training.select(baseline, lambda encoder: figures(encoder, tokenizer))
    dual_encoder.save_model(job.start, out, job.vocabulary)
    facts = {"pairs": len(job.views), "steps": steps * training.epochs, **job.said, "selected": chosen._asdict()}
    facts |= {"candidates": candidates, "epochs": training.records}
    _describe(job.start, job.origin, out, facts)
    return True


def keep(start: dual_encoder.DualEncoder, vocabulary: list[str], origin: str, out: Path, figures: Figures) -> bool:
    """Write `start` to `out` as it is, measured once as epoch 0; whether this process wrote it, the first one."""
    if not distributed.is_first():
        return False
    dual_encoder.save_model(start, out, vocabulary)
    measured = figures(start.to(device.choose_device()), load_tokenizer(out / "vocab.txt")).figures
    valid = {name: round(value, 6) for name, value in measured.items()}
    _describe(start, origin, out, {"pairs": 0, "steps": 0, "valid": valid, "epochs": []})
    return True


def _describe(encoder: dual_encoder.DualEncoder, origin: str, out: Path, facts: Mapping[str, Any]) -> None:
    write_json(out / "training.json", facts)
    card.write_card(out, encoder.config, origin, facts)


def _batches(job: Job, tokenizer: Any) -> trainer.Batches:
    some = partial(
        load_batches,
        job.views,
        tokenizer,
        max_tokens=job.start.config["text"]["max_tokens"],
        batch_size=job.fit.batch_size,
        seed=job.seed,
        rank=distributed.get_rank(),
        ranks=distributed.count_ranks(),
        apart=job.fit.siblings == "apart",
    )
    return lambda epoch, first_step: some(epoch=epoch, first_step=first_step)
