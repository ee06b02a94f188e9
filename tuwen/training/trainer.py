"""The loop: one for pre-training and fine-tuning. Knows neither tables nor tracking; resumes after a kill."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuwen.core.errors import UserError
from tuwen.core.progress import Pace, follow, say
from tuwen.core.signals import SIGTERM_STATUS, watch_sigterm
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training import distributed, optim
from tuwen.training.checkpoint import Checkpoint, every_seconds
from tuwen.training.selection import Choice, Measured, State, mixed, select
from tuwen.training.step import prepare_model, step

if TYPE_CHECKING:  # pyarrow and pydantic are not needed to step on tensors
    from tuwen.core.params import Fit
    from tuwen.training.loader import Batch

EpochRecord = dict[str, float]
Measure = Callable[[DualEncoder], Measured]
Batches = Callable[[int, int], Iterator["Batch"]]  # epoch, steps of it to leave out -> the others
BEST, RECORDS = "best.pt", "records.pt"
NAMED = 20  # pair ids that a message holds; the kept batch has all


def train(
    model: DualEncoder,
    epoch_batches: Batches,
    steps_per_epoch: int,
    fit: "Fit",
    *,
    seed: int,
    checkpoint: Path,
    evaluate: Measure,
    log: Callable[[EpochRecord, int], None],
    until: int | None = None,
) -> "Training":
    """Train `model` in place for `fit.epochs`, or until epoch `until` of them, and return what there is to choose.

    epoch_batches: epoch counted from 1, batches of it to leave out -> this process's share of the others.
    checkpoint: a folder; training goes on from the step found there. evaluate: valid after each epoch. log: called
    with each record, speeds included, and its epoch. Several processes give the same weights to all of them.
    Raises UserError when the batches are empty or the loss is not finite, SystemExit once SIGTERM's state is kept.
    """
    if steps_per_epoch == 0:
        raise UserError(
            f"params.yaml: baseline.fit or finetune.fit: batch_size: {fit.batch_size} is more than the "
            "training rows; lower it or add data"
        )
    torch.manual_seed(seed + distributed.get_rank())
    prepare_model(model, fit)
    training = Training(model, fit, steps_per_epoch, Checkpoint(checkpoint))
    training.resume()
    with watch_sigterm() as stopped:
        while training.epochs < (until or fit.epochs):
            if training.done < (training.epochs + 1) * steps_per_epoch:
                training.run_epoch(epoch_batches, stopped)
            training.close_epoch(evaluate, log)
            if stopped:
                raise training.ended()
    return training


class Training:
    """A training under way: weights, optimizers, average, how far it is, and the best state so far."""

    def __init__(self, model: DualEncoder, fit: "Fit", steps_per_epoch: int, checkpoint: Checkpoint) -> None:
        self.model, self.fit, self.steps_per_epoch, self.checkpoint = model, fit, steps_per_epoch, checkpoint
        self.optimizers = optim.make_optimizers(model, fit)
        self.ema = optim.Ema(model, fit.ema) if fit.ema is not None else None
        self.done = 0  # steps
        self.lr = 0.0  # of the last of them
        self.losses: list[float] = []  # of the epoch under way
        self.records: list[EpochRecord] = []
        self.best: dict[str, Any] | None = None
        self._pace = Pace()
        self._every_seconds, self._saved_at = every_seconds(), time.monotonic()

    @property
    def epochs(self) -> int:
        """Epochs that are done and measured."""
        return len(self.records)

    def run_epoch(self, epoch_batches: Batches, stopped: list[bool]) -> None:
        """The steps that the epoch under way still has, and a checkpoint after them and in between."""
        epoch, steps = self.epochs + 1, self.steps_per_epoch
        self._pace = Pace()
        timed = self._pace.time_batches(epoch_batches(epoch, self.done % steps))
        label = f"epoch {epoch}/{self.fit.epochs}"
        left = steps - self.done % steps
        for batch in follow(timed, label, left) if distributed.is_first() else timed:
            self._step(batch)
            due = time.monotonic() - self._saved_at >= self._every_seconds
            stop, due = distributed.is_any([bool(stopped), due])
            if stop or due or self.done % steps == 0:
                self.save()
            if stop:
                raise self.ended()
        assert self.done == epoch * steps, f"epoch {epoch} had fewer than {steps} batches"

    def _step(self, batch: "Batch") -> None:
        factor = optim.schedule(self.done, self.fit.epochs * self.steps_per_epoch, self.fit.warmup_steps)
        loss = step(self.model, self.optimizers, batch, factor, self.fit)
        if not math.isfinite(loss):
            raise self._not_finite(batch, loss)
        self.done += 1
        self.losses.append(loss)
        self.lr = self.fit.lr * factor
        if self.ema is not None:
            self.ema.update(self.model, self.done)

    def _not_finite(self, batch: "Batch", loss: float) -> UserError:
        name = f"not_finite-{distributed.get_rank()}.pt"
        self.checkpoint.write(name, lambda part: torch.save(batch._asdict(), part))
        names = [name for share in distributed.collect(batch.pair_ids) for name in share]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        epoch, number = self.epochs + 1, len(self.losses) + 1
        return UserError(
            f"epoch {epoch}, step {number}: the loss is {loss}; lower lr in this stage's fit, or look at its "
            f"pairs: {', '.join(names[:NAMED])}{more}; the batch is kept in {self.checkpoint.folder / name}"
        )

    def close_epoch(self, evaluate: Measure, log: Callable[[EpochRecord, int], None]) -> None:
        """Measure the epoch that was run, on the first process, and tell of it."""
        epoch = self.epochs + 1
        record: EpochRecord = {"loss": sum(self.losses) / len(self.losses), "lr": self.lr}
        record |= {"temperature": 1 / self.model.scale.item()}
        if distributed.is_first():
            record |= self._measure(evaluate, epoch)
        record = distributed.from_first(record)
        self.records.append({"epoch": epoch, **{name: round(value, 6) for name, value in record.items()}})
        self.losses = []
        if not distributed.is_first():
            return
        self.checkpoint.write(RECORDS, lambda part: torch.save(self.records, part))
        speeds = self._pace.compute_speeds(self.fit.batch_size)
        say(_line(self.records[-1] | speeds, self.fit.epochs))
        log(self.records[-1] | speeds, epoch)

    def _measure(self, evaluate: Measure, epoch: int) -> EpochRecord:
        measured = evaluate(self.model)
        self._keep_best(measured, epoch, False)
        record = dict(measured.figures)
        if self.ema is not None:
            with self.ema.worn_by(self.model):
                averaged = evaluate(self.model)
                self._keep_best(averaged, epoch, True)
            of_valid = {name: value for name, value in averaged.figures.items() if name.startswith("valid_")}
            record |= {f"ema_{name}": value for name, value in of_valid.items()}
        return record

    def _keep_best(self, measured: Measured, epoch: int, ema: bool) -> None:
        if not self.fit.select.epochs or (self.best and self.best["criterion"] >= measured.criterion):
            return
        kept = {"epoch": epoch, "ema": ema, "criterion": measured.criterion}
        state = self.model.state_dict()
        on_disk = self.checkpoint.write(BEST, lambda part: torch.save({**kept, "model": state}, part))
        self.best = kept if on_disk else {**kept, "model": {name: value.clone() for name, value in state.items()}}

    def save(self) -> None:
        """Keep all that the next step depends on."""
        self.checkpoint.save(
            {
                "model": self.model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "ema": self.ema.weights if self.ema else None,
                "done": self.done,
                "losses": self.losses,
                "lr": self.lr,
                "records": self.records,
            }
        )
        self._saved_at = time.monotonic()

    def resume(self) -> None:
        """Go on from what `save` kept, if it did."""
        state = self.checkpoint.load()
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        if self.ema is not None:
            self.ema.weights = {name: value.to(choose_device()) for name, value in state["ema"].items()}
        self.done, self.lr, self.losses, self.records = (state[key] for key in ("done", "lr", "losses", "records"))
        measured, closed = self._kept(RECORDS) or [], self.done // self.steps_per_epoch
        if len(measured) > len(self.records) and self.done == closed * self.steps_per_epoch:
            self.records, self.losses = measured[:closed], []  # that epoch was measured before the kill
        if self.fit.select.epochs:
            self.best = self._kept(BEST)
        if distributed.is_first():
            say(f"resumed after step {self.done} (epoch {closed}) from {self.checkpoint.folder}")

    def _kept(self, name: str) -> Any:
        path = self.checkpoint.folder / name
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True) if path.is_file() else None

    def ended(self) -> SystemExit:
        """What to raise once SIGTERM came and all is kept."""
        if distributed.is_first():
            say(f"SIGTERM: step {self.done} is kept in {self.checkpoint.folder}; the same command goes on there")
        return SystemExit(SIGTERM_STATUS)

    def select(self, baseline: State | None, evaluate: Measure) -> tuple[Choice, list[dict[str, Any]]]:
        """Give the model the state that does best on valid; returns the choice, and the figures of all states."""
        last = {name: value.clone() for name, value in self.model.state_dict().items()}
        states: dict[tuple[int, bool], Callable[[], State]] = {(self.epochs, False): lambda: last}
        if self.ema is not None:
            averaged = self.ema.weights
            states[self.epochs, True] = lambda: averaged
        if self.best is not None:
            states.setdefault((self.best["epoch"], self.best["ema"]), self._best_state)
        alphas = self.fit.select.wise_ft
        if len(states) == 1 and not alphas:
            return Choice(self.epochs, False, 1.0), []
        return select(self.model, states, baseline, alphas, lambda: evaluate(self.model))

    def _best_state(self) -> State:
        assert self.best is not None
        state: State = self.best.get("model") or self._kept(BEST)["model"]
        return state

    def take(self, choice: Choice, baseline: State | None) -> None:
        """Give the model a state of the last epoch that was chosen elsewhere."""
        state = self.ema.weights if choice.ema and self.ema is not None else self.model.state_dict()
        self.model.load_state_dict(mixed(state, baseline, choice.wise_ft))


def _line(record: EpochRecord, epochs: int) -> str:
    figures = ", ".join(f"{name} {value:.4g}" for name, value in record.items() if name != "epoch")
    return f"epoch {record['epoch']:.0f}/{epochs}: {figures}"
