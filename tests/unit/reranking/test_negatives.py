"""Hard negatives: how often each is drawn, and what never is."""

import pytest
import torch

from tuwen.reranking.negatives import compute_hardness, draw_negatives

ROWS, COLUMNS = 4, 6


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and positives: each row its own, rows 0 and 1 are siblings."""
    logits = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(3)) * 2
    positive = torch.eye(ROWS, COLUMNS, dtype=torch.bool)
    positive[0, 1] = positive[1, 0] = True
    return logits, positive


def test_each_negative_is_drawn_as_often_as_the_softmax_says_and_a_positive_never() -> None:
    logits, positive = make_batch()
    draws = 40_000
    uniform = torch.rand(ROWS, draws, generator=torch.Generator().manual_seed(1))
    drawn = draw_negatives(logits, positive, uniform)
    share = torch.nn.functional.one_hot(drawn, COLUMNS).double().mean(1)
    expected = torch.softmax(logits.double().masked_fill(positive, -torch.inf), 1)
    assert share[positive].max() == 0
    torch.testing.assert_close(share, expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_even_the_ends_of_the_draw_are_no_positive(uniform: float) -> None:
    logits = torch.zeros(3, 4)
    positive = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 1], [1, 1, 0, 1]]).bool()
    drawn = draw_negatives(logits, positive, torch.full((3, 2), uniform))
    assert not positive.gather(1, drawn).any()


def test_a_similarity_that_leaves_no_chance_to_the_others_still_draws_a_negative() -> None:
    logits, positive = torch.full((1, 3), -1e4), torch.tensor([[True, False, False]])
    logits[0, 0] = 1e4
    assert draw_negatives(logits, positive, torch.rand(1, 50)).min() >= 1


def test_a_row_of_positives_alone_has_no_negative_and_changes_no_other_row() -> None:
    logits, positive = make_batch()
    uniform = torch.rand(ROWS, 3, generator=torch.Generator().manual_seed(1))
    before = draw_negatives(logits, positive, uniform)
    positive[2] = True
    drawn = draw_negatives(logits, positive, uniform)
    assert drawn[2].tolist() == [-1, -1, -1]
    assert torch.equal(drawn[[0, 1, 3]], before[[0, 1, 3]])


def test_a_row_draws_the_same_alone_and_among_others() -> None:
    logits, positive = make_batch()
    uniform = torch.rand(ROWS, 5, generator=torch.Generator().manual_seed(1))
    whole = draw_negatives(logits, positive, uniform)
    halves = [draw_negatives(logits[part], positive[part], uniform[part]) for part in (slice(2), slice(2, 4))]
    assert torch.equal(torch.cat(halves), whole)


def test_hardness_goes_from_first_to_last_over_its_share_of_the_steps_and_stays() -> None:
    assert [compute_hardness(0.0, 0.5, 0.5, done, 8) for done in (0, 1, 2, 4, 7)] == [0.0, 0.125, 0.25, 0.5, 0.5]
    assert [compute_hardness(1.0, 1.0, 0.0, done, 8) for done in (0, 7)] == [1.0, 1.0]
    assert [compute_hardness(0.0, 1.0, 0.0, done, 8) for done in (0, 7)] == [1.0, 1.0]  # no ramp: at once
