"""Which state of a training becomes the model: by one criterion on valid, the mean of the two hit@5.

Of a re-ranker it is the mean of the two hit@1 (reranking/validation.py).
Shapes: G images of valid.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tuwen.core.errors import UserError
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.state_dict import State
from tuwen.training.checkpoint import Checkpoint

if TYPE_CHECKING:  # pydantic is not needed to step on tensors
    from tuwen.core.params.training import Select

BEST_FILE, EPOCH_FILE = "best.pt", "epoch-{}.pt"

Shares = npt.NDArray[np.float64]


class Measured(NamedTuple):
    """A model on valid: figures for people, and what each image with its texts adds to the criterion, [G]."""

    figures: dict[str, float]
    shares: Shares

    @property
    def criterion(self) -> float:
        """The sum of the shares: the mean of the two hit@5 over the full gallery, of a re-ranker hit@1."""
        return float(self.shares.sum())


Validator = Callable[[DualEncoder, Any], Measured]  # of a model and its tokenizer


class Choice(NamedTuple):
    """A state: after which epoch, whether the average of weights, and its share in a mean with the baseline.

    soup: the epochs whose mean of weights it is; the last of them is its epoch.
    """

    epoch: int
    ema: bool
    wise_ft: float
    soup: tuple[int, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return it as training.json has it: with `soup` where it is one."""
        described = self._asdict()
        return described if self.soup else {name: one for name, one in described.items() if name != "soup"}


class MeasuredState(NamedTuple):
    """A state, and what it is worth on valid."""

    choice: Choice
    measured: Measured


def compute_standard_error(first_G: Shares, second_G: Shares) -> float:
    """Return the standard error of the difference of two criteria; an image with its texts is one draw."""
    if len(first_G) < 2:
        return math.inf
    return math.sqrt(len(first_G) * float(np.var(first_G - second_G, ddof=1)))


def choose_state(states: Sequence[MeasuredState]) -> MeasuredState:
    """Return the best, or of those within one standard error of it the plainest.

    Plainest: no soup, then share 1 before a mean with the baseline, then the last epoch, then the weights before
    their average.
    """
    best = max(states, key=lambda state: state.measured.criterion)
    tied = [state for state in states if _is_tied(state.measured, best.measured)]
    return min(tied, key=lambda state: _rank_plainness(state.choice))


def _rank_plainness(choice: Choice) -> tuple[bool, float, int, bool]:
    return bool(choice.soup), -choice.wise_ft, -choice.epoch, choice.ema


def _is_tied(one: Measured, best: Measured) -> bool:
    # a lead of one image is one standard error exactly, whatever the last bit says
    return best.criterion - one.criterion <= compute_standard_error(one.shares, best.shares) * (1 + 1e-9)


def mix_weights(tuned: State, baseline: State | None, alpha: float) -> State:
    """Return alpha x tuned + (1 - alpha) x baseline, weight by weight (WiSE-FT, Wortsman et al. 2022)."""
    if alpha == 1 or baseline is None:
        return tuned
    return {
        name: value if not value.is_floating_point() else baseline[name].to(value.device).lerp(value, alpha)
        for name, value in tuned.items()
    }


def average_states(states: Sequence[State]) -> State:
    """Return the mean of weights, weight by weight; what is no floating number is that of the last."""
    total = {name: value.clone() for name, value in states[-1].items()}
    for number, state in enumerate(states[:-1], 2):
        for name, value in total.items():
            if value.is_floating_point():
                value.lerp_(state[name].to(value.device), 1 / number)
    return total


def choose_soup(
    model: nn.Module, criteria: Mapping[int, float], read: Callable[[int], State], measure: Callable[[], Measured]
) -> tuple[int, ...]:
    """Return the epochs whose mean of weights does best on valid: a greedy soup (Wortsman et al. 2022).

    criteria: epoch -> what it is worth alone. The best goes in first; each of the others, in the order of their
    worth, stays if the mean does not get worse. read: returns an epoch's weights. Leaves any weights in `model`.
    """
    best, *others = sorted(criteria, key=lambda epoch: (-criteria[epoch], -epoch))
    soup, worth = [best], criteria[best]
    for epoch in others:
        model.load_state_dict(average_states([read(one) for one in sorted([*soup, epoch])]))
        if (criterion := measure().criterion) >= worth:
            soup, worth = [*soup, epoch], criterion
    return tuple(sorted(soup))


def select_state(
    model: nn.Module,
    states: Mapping[Choice, Callable[[], State]],
    baseline: State | None,
    alphas: Sequence[float],
    measure: Callable[[], Measured],
) -> tuple[Choice, list[dict[str, Any]]]:
    """Measure every state, and its means with the baseline at `alphas`, and leave the chosen one in `model`.

    states: with share 1 -> what returns it, called when its turn comes. Returns the choice,
    and one record for each that was measured.
    """
    candidates = []
    for choice, get_state in states.items():
        state = get_state()
        for alpha in sorted({1.0, *alphas}, reverse=True):
            model.load_state_dict(mix_weights(state, baseline, alpha))
            candidates.append(MeasuredState(choice._replace(wise_ft=alpha), measure()))
    chosen = choose_state(candidates).choice
    model.load_state_dict(mix_weights(states[chosen._replace(wise_ft=1.0)](), baseline, chosen.wise_ft))
    return chosen, [make_record(*candidate) for candidate in candidates]


def make_record(choice: Choice, measured: Measured) -> dict[str, Any]:
    """Return a measured state as training.json has it."""
    figures = measured.figures | {"criterion": measured.criterion}
    return choice.describe() | {name: round(value, 6) for name, value in figures.items()}


class KeptStates:
    """What a training keeps on disk until a state is chosen: the best of any epoch, for a soup those of all."""

    def __init__(self, select: "Select", checkpoint: Checkpoint) -> None:
        self._select, self._checkpoint = select, checkpoint
        self._best: dict[str, Any] | None = None

    def keep(self, state: State, measured: Measured, epoch: int, ema: bool) -> None:
        """Take in the state after an epoch, or its average of weights, if it may be chosen."""
        facts = {"epoch": epoch, "ema": ema, "criterion": measured.criterion}

        def write(part: Path) -> None:
            torch.save({**facts, "model": state}, part)

        if self._select.soup and not ema:
            self._checkpoint.write(EPOCH_FILE.format(epoch), write)
        if self._select.epochs and not (self._best and self._best["criterion"] >= measured.criterion):
            on_disk = self._checkpoint.write(BEST_FILE, write)
            self._best = (
                facts if on_disk else {**facts, "model": {name: one.clone() for name, one in state.items()}}
            )

    def resume(self) -> None:
        """Know what was kept before a kill."""
        if self._select.epochs:
            self._best = self._checkpoint.read(BEST_FILE)

    def get_best(self) -> Choice | None:
        """Return the best state of any epoch, None where none is kept."""
        return Choice(self._best["epoch"], self._best["ema"], 1.0) if self._best else None

    def read_best(self) -> State:
        """Return its weights."""
        assert self._best is not None
        state: State = self._best.get("model") or self._checkpoint.read(BEST_FILE)["model"]
        return state

    def choose_soup(self, model: nn.Module, epochs: int, measure: Callable[[], Measured]) -> Choice | None:
        """Return the soup of the first `epochs` that does best on valid; None unless it is of several."""
        read = {epoch: self._checkpoint.read(EPOCH_FILE.format(epoch)) for epoch in range(1, epochs + 1)}
        criteria = {epoch: kept["criterion"] for epoch, kept in read.items() if kept}
        if not self._select.soup or len(criteria) < 2:
            return None
        soup = choose_soup(model, criteria, lambda epoch: read[epoch]["model"], measure)
        return Choice(soup[-1], False, 1.0, soup) if len(soup) > 1 else None

    def read_soup(self, choice: Choice) -> State:
        """Return the mean of the weights of its epochs. Raises UserError where one could not be kept."""
        kept = {epoch: self._checkpoint.read(EPOCH_FILE.format(epoch)) for epoch in choice.soup}
        if lost := [epoch for epoch, one in kept.items() if one is None]:
            raise UserError(f"{self._checkpoint.folder}: the weights of epoch {lost[0]} are gone; train again")
        return average_states([one["model"] for one in kept.values()])
