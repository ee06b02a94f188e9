"""One training from views to a model folder: feed, loop, selection, and what training.json says of them."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tuwen import distributed, model, train
from tuwen.feed import Views
from tuwen.loader import batches
from tuwen.params import Fit
from tuwen.selection import Choice, Measured
from tuwen.text import load_tokenizer

Log = Callable[[train.Record, int], None]
Figures = Callable[[model.DualEncoder, Any], Measured]  # of a model and its tokenizer, after an epoch


class Job(NamedTuple):
    """What is trained on what.

    baseline: the folder that `start` was loaded from, for means of weights. chosen: the state to take without
    measuring. said: what training.json holds besides.
    """

    start: model.DualEncoder
    vocabulary: list[str]
    views: Views
    fit: Fit
    seed: int
    baseline: Path | None = None
    chosen: Choice | None = None
    said: Mapping[str, Any] = {}


def run(job: Job, out: Path, checkpoint: Path, figures: Figures, log: Log) -> bool:
    """Train `job.start` and write it to `out` with training.json; whether this process wrote it, the first one."""
    if distributed.is_first():
        model.save(job.start, out, job.vocabulary)  # the tokenizer is read from the file it will be used with
    distributed.from_first(None)  # nobody reads before that
    tokenizer = load_tokenizer(out / "vocab.txt")
    fit, steps = job.fit, len(job.views) // job.fit.batch_size
    training = train.train(
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
    baseline = model.load(job.baseline).state_dict() if job.baseline and fit.select.wise_ft else None
    if chosen:
        training.take(chosen, baseline)
    else:
        chosen, candidates = training.select(baseline, lambda encoder: figures(encoder, tokenizer))
    model.save(job.start, out, job.vocabulary)
    facts = {"pairs": len(job.views), "steps": steps * training.epochs, **job.said, "selected": chosen._asdict()}
    facts |= {"candidates": candidates, "epochs": training.records}
    (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    return True


def _batches(job: Job, tokenizer: Any) -> train.Batches:
    some = partial(
        batches,
        job.views,
        tokenizer,
        max_tokens=job.start.config["text"]["max_tokens"],
        batch_size=job.fit.batch_size,
        seed=job.seed,
        rank=distributed.rank(),
        ranks=distributed.ranks(),
        apart=job.fit.siblings == "apart",
    )
    return lambda epoch, first_step: some(epoch=epoch, first_step=first_step)
