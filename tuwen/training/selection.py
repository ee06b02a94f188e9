"""Which state of a training becomes the model: by one criterion on valid, the mean of the two hit@5.

Shapes: G pictures of valid.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

Shares = npt.NDArray[np.float64]
Weights = Mapping[str, Tensor]


class Measured(NamedTuple):
    """A model on valid: figures for people, and what each picture with its texts adds to the criterion, [G]."""

    figures: dict[str, float]
    shares: Shares

    @property
    def criterion(self) -> float:
        """The mean of the two hit@5 over the full gallery."""
        return float(self.shares.sum())


class Choice(NamedTuple):
    """A state: after which epoch, whether the average of weights, and its share in a mean with the baseline."""

    epoch: int
    ema: bool
    wise_ft: float


class MeasuredState(NamedTuple):
    """A state that was measured."""

    choice: Choice
    measured: Measured


def compute_standard_error(first: Shares, second: Shares) -> float:
    """Of the difference between two criteria on the same pictures: paired, a picture and its texts as one draw."""
    return math.sqrt(len(first) * float(np.var(first - second, ddof=1))) if len(first) > 1 else math.inf


def choose_state(candidates: Sequence[MeasuredState]) -> MeasuredState:
    """The best, or of those within one standard error of it the plainest: alpha 1, the last epoch, no average."""
    best = max(candidates, key=lambda candidate: candidate.measured.criterion)
    tied = [one for one in candidates if _is_tied(one.measured, best.measured)]
    return min(tied, key=lambda one: (-one.choice.wise_ft, -one.choice.epoch, one.choice.ema))


def _is_tied(one: Measured, best: Measured) -> bool:
    # a lead of one picture is one standard error exactly, whatever the last bit says
    return best.criterion - one.criterion <= compute_standard_error(one.shares, best.shares) * (1 + 1e-9)


def mix_weights(tuned: Weights, baseline: Weights | None, alpha: float) -> Weights:
    """alpha x tuned + (1 - alpha) x baseline, weight by weight (WiSE-FT, Wortsman et al. 2022)."""
    if alpha == 1 or baseline is None:
        return tuned
    return {
        name: value if not value.is_floating_point() else baseline[name].to(value.device).lerp(value, alpha)
        for name, value in tuned.items()
    }


def select_state(
    model: nn.Module,
    states: Mapping[tuple[int, bool], Callable[[], Weights]],
    baseline: Weights | None,
    alphas: Sequence[float],
    measure: Callable[[], Measured],
) -> tuple[Choice, list[dict[str, Any]]]:
    """Measure every state, and its means with the baseline at `alphas`, and leave the chosen one in `model`.

    states: (epoch, whether it is an average) -> what gives it, asked for when its turn comes. Returns the choice,
    and the figures of all, one record each.
    """
    candidates = []
    for (epoch, ema), give in states.items():
        state = give()
        for alpha in sorted({1.0, *alphas}, reverse=True):
            model.load_state_dict(mix_weights(state, baseline, alpha))
            candidates.append(MeasuredState(Choice(epoch, ema, alpha), measure()))
    chosen = choose_state(candidates).choice
    model.load_state_dict(mix_weights(states[chosen.epoch, chosen.ema](), baseline, chosen.wise_ft))
    return chosen, [make_record(*candidate) for candidate in candidates]


def make_record(choice: Choice, measured: Measured) -> dict[str, Any]:
    """A measured state as training.json has it."""
    figures = measured.figures | {"criterion": measured.criterion}
    return choice._asdict() | {name: round(value, 6) for name, value in figures.items()}
