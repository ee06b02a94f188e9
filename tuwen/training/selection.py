"""Which state of a training becomes the model: by one criterion on valid, the mean of the two hit@5.

Of a re-ranker it is the mean of the two hit@1 (reranking/validation.py).
Shapes: G images of valid.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import nn

from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.state_dict import State

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
    """A state: after which epoch, whether the average of weights, and its share in a mean with the baseline."""

    epoch: int
    ema: bool
    wise_ft: float


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

    Plainest: share 1 before a mean with the baseline, then the last epoch, then the weights before their average.
    """
    best = max(states, key=lambda state: state.measured.criterion)
    tied = [state for state in states if _is_tied(state.measured, best.measured)]
    return min(tied, key=lambda state: (-state.choice.wise_ft, -state.choice.epoch, state.choice.ema))


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


def select_state(
    model: nn.Module,
    states: Mapping[tuple[int, bool], Callable[[], State]],
    baseline: State | None,
    alphas: Sequence[float],
    measure: Callable[[], Measured],
) -> tuple[Choice, list[dict[str, Any]]]:
    """Measure every state, and its means with the baseline at `alphas`, and leave the chosen one in `model`.

    states: (epoch, whether it is an average) -> what returns it, called when its turn comes. Returns the choice,
    and one record for each that was measured.
    """
    candidates = []
    for (epoch, ema), get_state in states.items():
        state = get_state()
        for alpha in sorted({1.0, *alphas}, reverse=True):
            model.load_state_dict(mix_weights(state, baseline, alpha))
            candidates.append(MeasuredState(Choice(epoch, ema, alpha), measure()))
    chosen = choose_state(candidates).choice
    model.load_state_dict(mix_weights(states[chosen.epoch, chosen.ema](), baseline, chosen.wise_ft))
    return chosen, [make_record(*candidate) for candidate in candidates]


def make_record(choice: Choice, measured: Measured) -> dict[str, Any]:
    """Return a measured state as training.json has it."""
    figures = measured.figures | {"criterion": measured.criterion}
    return choice._asdict() | {name: round(value, 6) for name, value in figures.items()}
