"""The training loop on tensors alone; it resumes after a kill, and stops at SIGTERM once all is saved."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from tuwen.core.errors import UserError
from tuwen.core.progress import Pace, follow, say
from tuwen.core.signals import SIGTERM_STATUS, watch_sigterm
from tuwen.model.state_dict import State
from tuwen.training import distributed, optim
from tuwen.training.checkpoint import Checkpoint, Stream, read_interval_seconds
from tuwen.training.engines.weights import Weights, copy_to_shard
from tuwen.training.objective import Contrastive, EpochRecord, Objective
from tuwen.training.selection import Choice, KeptStates, Measured, mix_weights, select_state
from tuwen.training.streams.skipped import gather_skipped

if TYPE_CHECKING:  # pyarrow and pydantic are not needed to step on tensors
    from tuwen.core.params import Fit, Loop

Measure = Callable[[Any], Measured]  # of the model that is trained
# epoch, steps of it to leave out -> the batches of the others, as the objective wants them
Batches = Callable[[int, int], Iterator[Any]]
RECORDS_FILE = "records.pt"
MAX_PAIRS_NAMED = 20  # pair ids in a message; the batch that is written has all


def train(
    model: nn.Module,
    epoch_batches: Batches,
    steps_per_epoch: int,
    fit: "Loop",
    *,
    seed: int,
    checkpoint: Path,
    evaluate: Measure,
    log: Callable[[EpochRecord, int], None],
    until: int | None = None,
    objective: Objective | None = None,
    streams: Sequence[Stream] = (),
) -> "Training":
    """Train `model` in place for `fit.epochs`, or until epoch `until` of them; return what a state is chosen from.

    streams: what `epoch_batches` reads and whose places are kept. epoch_batches: epoch counted from 1, batches
    of it to leave out -> this process's share of the others. checkpoint: a folder; training resumes at the step
    that is there. evaluate: measures the model on valid after each epoch. log: called with each record, speeds
    included, and its epoch. objective: without it a dual encoder's contrastive loss, and `fit` is a Fit. In
    several processes all end with the same weights. UserError: an epoch has no batch, or the loss is not
    finite; SystemExit: after a SIGTERM, once the state is saved.
    """
    learned: Objective = objective or Contrastive(cast("Fit", fit))
    if steps_per_epoch == 0:
        raise UserError(
            f"params.yaml: {learned.group}: batch_size: {fit.batch_size} is more than the "
            "training rows; lower it or add data"
        )
    torch.manual_seed(seed + distributed.get_rank())
    trained = copy_to_shard(model, fit)
    learned.prepare(trained, steps_per_epoch)
    weights, kept = Weights(trained, model, fit), Checkpoint(checkpoint, streams)
    training = Training(weights, learned, fit, steps_per_epoch, kept, streams)
    training.resume()
    with watch_sigterm() as stopped:
        while training.epochs < (until or fit.epochs):
            if training.done < (training.epochs + 1) * steps_per_epoch:
                training.run_epoch(epoch_batches, stopped)
            training.close_epoch(evaluate, log)
            if stopped:
                raise training.make_exit()
    training.weights.finish()
    return training


class Training:
    """A training under way: weights, optimizers, average of the weights, steps done, and the best state so far."""

    def __init__(
        self,
        weights: Weights,
        objective: Objective,
        fit: "Loop",
        steps_per_epoch: int,
        checkpoint: Checkpoint,
        streams: Sequence[Stream],
    ) -> None:
        self.weights, self.objective, self.fit = weights, objective, fit
        self.steps_per_epoch, self.checkpoint, self._streams = steps_per_epoch, checkpoint, streams
        self.done = 0  # steps
        self.lr = 0.0  # of the last of them
        self.losses: list[float] = []  # of the epoch under way
        self.records: list[EpochRecord] = []
        self.kept = KeptStates(fit.select, checkpoint)
        self._pace = Pace()
        self._every_seconds, self._saved_at = read_interval_seconds(), time.monotonic()

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        return self.weights.model

    @property
    def ema(self) -> optim.Ema | None:
        """The average of the weights."""
        return self.weights.ema

    @property
    def epochs(self) -> int:
        """The epochs that are trained and measured."""
        return len(self.records)

    def run_epoch(self, epoch_batches: Batches, stopped: list[bool]) -> None:
        """Take the steps that the epoch under way still has, with checkpoints between them and at the end."""
        epoch, steps = self.epochs + 1, self.steps_per_epoch
        self._pace = Pace()
        timed = self._pace.time_batches(epoch_batches(epoch, self.done % steps))
        label = f"epoch {epoch}/{self.fit.epochs}"
        left = steps - self.done % steps
        for batch in follow(timed, label, left) if distributed.is_first() else timed:
            self._step(batch)
            due = time.monotonic() - self._saved_at >= self._every_seconds
            stop, due = distributed.combine_flags([bool(stopped), due])
            if stop or due or self.done % steps == 0:
                self.save()
            if stop:
                raise self.make_exit()
        assert self.done == epoch * steps, f"epoch {epoch} had fewer than {steps} batches"

    def _step(self, batch: Any) -> None:
        factor = optim.compute_lr_factor(self.done, self.fit.epochs * self.steps_per_epoch, self.fit.warmup_steps)
        loss = self.objective.take_step(self.model, self.weights.optimizers, batch, factor, self.done)
        if not math.isfinite(loss):
            raise self._make_not_finite_error(batch, loss)
        self.done += 1
        self.losses.append(loss)
        self.lr = self.fit.lr * factor
        if self.ema is not None:
            self.ema.update(self.model, self.done)

    def _make_not_finite_error(self, batch: Any, loss: float) -> UserError:
        name = f"not_finite-{distributed.get_rank()}.pt"
        self.checkpoint.write(name, lambda part: torch.save(batch._asdict(), part))
        names = [name for share in distributed.gather_objects(batch.pair_ids) for name in share]
        more = f" and {len(names) - MAX_PAIRS_NAMED} more" if len(names) > MAX_PAIRS_NAMED else ""
        epoch, number = self.epochs + 1, len(self.losses) + 1
        return UserError(
            f"epoch {epoch}, step {number}: the loss is {loss}; lower lr in this stage's fit, or look at its "
            f"pairs: {', '.join(names[:MAX_PAIRS_NAMED])}{more}; the batch is kept in "
            f"{self.checkpoint.folder / name}"
        )

    def close_epoch(self, evaluate: Measure, log: Callable[[EpochRecord, int], None]) -> None:
        """Measure the epoch on the first process, and record, print and log it."""
        epoch = self.epochs + 1
        record: EpochRecord = {"loss": sum(self.losses) / len(self.losses), "lr": self.lr}
        record |= self.objective.describe_epoch(self.model)
        record |= gather_skipped(self._streams)
        record |= self._measure(evaluate, epoch)
        record = distributed.broadcast_first(record)
        self.records.append({"epoch": epoch, **{name: round(value, 6) for name, value in record.items()}})
        self.losses = []
        if not distributed.is_first():
            return
        self.checkpoint.write(RECORDS_FILE, lambda part: torch.save(self.records, part))
        speeds = self._pace.compute_speeds(self.fit.batch_size)
        say(_format_record(self.records[-1] | speeds, self.fit.epochs))
        log(self.records[-1] | speeds, epoch)

    def _measure(self, evaluate: Measure, epoch: int) -> EpochRecord:
        """Measure the weights, and their average, on the first process. All processes call this."""
        record: EpochRecord = {}
        for ema in (False, True)[: 1 + (self.ema is not None)]:
            with self.weights.expose(ema):
                if distributed.is_first():
                    measured = evaluate(self.weights.whole)
                    self.kept.keep(self.weights.whole.state_dict(), measured, epoch, ema)
                    figures = measured.figures.items()
                    record |= (
                        {f"ema_{k}": v for k, v in figures if k.startswith("valid_")} if ema else dict(figures)
                    )
        return record

    def save(self) -> None:
        """Write all that the next step depends on."""
        state = {"objective": self.objective.get_state(), "done": self.done, "losses": self.losses, "lr": self.lr}
        state["records"] = self.records
        self.weights.save(self.checkpoint, self.done, state)
        self._saved_at = time.monotonic()

    def resume(self) -> None:
        """Go on from what `save` wrote, if anything."""
        state = self.checkpoint.load()
        if state is None:
            return
        self.weights.resume(self.checkpoint, state)
        self.objective.set_state(state["objective"])
        self.done, self.lr, self.losses, self.records = (state[key] for key in ("done", "lr", "losses", "records"))
        measured, closed = self.checkpoint.read(RECORDS_FILE) or [], self.done // self.steps_per_epoch
        if len(measured) > len(self.records) and self.done == closed * self.steps_per_epoch:
            self.records, self.losses = measured[:closed], []  # that epoch was measured before the kill
            self.objective.describe_epoch(self.model)  # begins the next one
        self.kept.resume()
        if distributed.is_first():
            say(f"resumed after step {self.done} (epoch {closed}) from {self.checkpoint.folder}")

    def make_exit(self) -> SystemExit:
        """Return what to raise after a SIGTERM, once all is saved."""
        if distributed.is_first():
            say(f"SIGTERM: step {self.done} is kept in {self.checkpoint.folder}; the same command goes on there")
        return SystemExit(SIGTERM_STATUS)

    def select(self, baseline: State | None, evaluate: Measure) -> tuple[Choice, list[dict[str, Any]]]:
        """Give the model the state that does best on valid; return the choice, and a record of every state."""
        last = {name: value.clone() for name, value in self.model.state_dict().items()}
        measure, alphas = (lambda: evaluate(self.model)), self.fit.select.wise_ft
        states: dict[Choice, Callable[[], State]] = {Choice(self.epochs, False, 1.0): lambda: last}
        if self.ema is not None:
            averaged = self.ema.weights
            states[Choice(self.epochs, True, 1.0)] = lambda: averaged
        if best := self.kept.get_best():
            states.setdefault(best, self.kept.read_best)
        if soup := self.kept.choose_soup(self.model, self.epochs, measure):
            states[soup] = lambda: self.kept.read_soup(soup)
        if len(states) == 1 and not alphas:
            self.model.load_state_dict(last)
            return Choice(self.epochs, False, 1.0), []
        return select_state(self.model, states, baseline, alphas, measure)

    def take_choice(self, choice: Choice, baseline: State | None) -> None:
        """Give the model the state of the last epoch that `choice`, made elsewhere, names."""
        state = self.ema.weights if choice.ema and self.ema is not None else self.model.state_dict()
        state = self.kept.read_soup(choice) if choice.soup else state
        self.model.load_state_dict(mix_weights(state, baseline, choice.wise_ft))


def _format_record(record: EpochRecord, epochs: int) -> str:
    figures = ", ".join(f"{name} {value:.4g}" for name, value in record.items() if name != "epoch")
    return f"epoch {record['epoch']:.0f}/{epochs}: {figures}"
