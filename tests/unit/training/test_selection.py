"""Which state of a training becomes the model."""

import math

import numpy as np
import pytest
import torch

from tuwen.training.selection import (
    Choice,
    Measured,
    MeasuredState,
    average_states,
    choose_soup,
    choose_state,
    compute_standard_error,
    mix_weights,
    select_state,
)

IMAGES = 400


def measure_like(hit: float, *, missed: int = 0) -> Measured:
    """Measure IMAGES with one text each, of which the share `hit` is found; `missed` of these are other ones."""
    hits = np.roll(np.arange(IMAGES) < hit * IMAGES, missed)
    return Measured({"valid_t2i_hit_at_5": float(hits.mean())}, hits / IMAGES)


def make_state(hit: float, epoch: int = 10, ema: bool = False, alpha: float = 1.0, **how) -> MeasuredState:
    return MeasuredState(Choice(epoch, ema, alpha), measure_like(hit, **how))


def test_the_paired_error_is_that_of_drawn_images() -> None:
    one, two = measure_like(0.5).shares, measure_like(0.55, missed=30).shares
    draw = np.random.default_rng(1)
    drawn = draw.integers(IMAGES, size=(4000, IMAGES))
    assert compute_standard_error(one, two) == pytest.approx((two - one)[drawn].sum(1).std(), rel=0.05)
    assert compute_standard_error(one, one) == 0
    assert math.isinf(compute_standard_error(one[:1], two[:1]))


def test_what_is_clearly_better_wins_and_what_is_not_goes_to_the_plainest() -> None:
    last = make_state(0.50)
    early = make_state(0.60, epoch=4)
    assert choose_state([last, early]) is early
    other = make_state(0.515, epoch=4, missed=60)  # finds 66 that the last state misses, and misses 60 of its own
    assert choose_state([last, other]) is last
    assert choose_state([last, make_state(0.515, epoch=4)]) is not last  # the same gain, and nothing lost
    mean, average = make_state(0.50, alpha=0.5), make_state(0.50, ema=True)
    before = make_state(0.50, epoch=9)
    assert choose_state([mean, average, before, last]) is last
    assert choose_state([mean, average, before]) is average  # alpha 1 first, then the last epoch, then no average
    assert choose_state([mean, before]) is before


def test_one_image_that_only_one_state_finds_is_within_one_error() -> None:
    shares = np.zeros(IMAGES)
    shares[0] = 1 / IMAGES
    one = MeasuredState(Choice(10, False, 1.0), Measured({}, np.zeros(IMAGES)))
    better = MeasuredState(Choice(10, False, 0.5), Measured({}, shares))
    assert compute_standard_error(one.measured.shares, shares) == pytest.approx(1 / IMAGES, rel=0.01)
    assert choose_state([one, better]) is one


def test_a_mean_of_weights_is_the_line_between_both() -> None:
    tuned = {"weight": torch.tensor([1.0, 3.0]), "steps": torch.tensor(7)}
    baseline = {"weight": torch.tensor([0.0, 1.0]), "steps": torch.tensor(0)}
    assert torch.equal(mix_weights(tuned, baseline, 0.25)["weight"], torch.tensor([0.25, 1.5]))
    assert mix_weights(tuned, baseline, 0.25)["steps"] == 7
    assert mix_weights(tuned, baseline, 1.0) is tuned


def test_select_measures_every_state_at_every_alpha_and_leaves_the_chosen_one() -> None:
    model = torch.nn.Linear(1, 1, bias=False)

    def state(value: float) -> dict[str, torch.Tensor]:
        return {"weight": torch.full((1, 1), value)}

    def measure() -> Measured:  # best at 2.0, clearly
        return measure_like(1 - abs(model.weight.item() - 2.0) / 8)

    values = {Choice(10, False, 1.0): 8.0, Choice(10, True, 1.0): 6.0, Choice(3, False, 1.0): 4.0}
    states = {choice: lambda value=value: state(value) for choice, value in values.items()}
    choice, records = select_state(model, states, state(0.0), [0.25, 0.5], measure)
    assert choice == Choice(3, False, 0.5)
    assert model.weight.item() == 2.0
    assert len(records) == 9
    assert records[0] == {"epoch": 10, "ema": False, "wise_ft": 1.0, "valid_t2i_hit_at_5": 0.25, "criterion": 0.25}
    best = max(records, key=lambda one: one["criterion"])
    assert (best["epoch"], best["wise_ft"]) in ((3, 0.5), (10, 0.25))


def test_a_soup_takes_in_what_does_not_make_its_mean_worse() -> None:
    """Best at 2.0: the nearest goes in first, and of the others those that draw the mean nearer."""
    model = torch.nn.Linear(1, 1, bias=False)
    weights = {1: 2.5, 2: 5.0, 3: 1.5, 4: 3.5}

    def read(epoch: int) -> dict[str, torch.Tensor]:
        return {"weight": torch.full((1, 1), weights[epoch])}

    def measure() -> Measured:
        return measure_like(1 - abs(model.weight.item() - 2.0) / 8)

    criteria = {}
    for epoch in weights:
        model.load_state_dict(read(epoch))
        criteria[epoch] = measure().criterion
    assert choose_soup(model, criteria, read, measure) == (1, 3)
    assert average_states([read(epoch) for epoch in (1, 2, 4)])["weight"].item() == pytest.approx(11 / 3)


def test_a_soup_is_the_last_choice_among_equals() -> None:
    plain, soup = make_state(0.5, alpha=0.5), make_state(0.5)
    soup = soup._replace(choice=Choice(10, False, 1.0, (8, 10)))
    assert choose_state([soup, plain]) is plain
    assert soup.choice.describe() == {"epoch": 10, "ema": False, "wise_ft": 1.0, "soup": (8, 10)}
    assert "soup" not in plain.choice.describe()
