"""Each objective against its definition written out, and against what it must be where the answer is known."""

import math

import pytest
import torch
from torch.nn import functional

from tuwen.reranking import losses

PLAIN, WEIGHTED = (1.0, 1.0), (1.0, 2.0)


def alone(value: torch.Tensor) -> torch.Tensor:
    """The mean over one process."""
    return value


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("weights", [PLAIN, WEIGHTED])
def test_matching_is_the_weighted_cross_entropy_of_each_head(weights: tuple[float, float]) -> None:
    heads, label = (draw(9, 2), draw(9, 2, seed=1)), torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0])
    everything = torch.ones(9, dtype=torch.bool)
    loss = losses.compute_match_loss(heads, label, everything, weights, alone)
    expected = [functional.cross_entropy(head, label, torch.tensor(weights)) for head in heads]
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_a_pair_that_is_not_counted_has_no_part_in_matching() -> None:
    logits, label = draw(6, 2).requires_grad_(), torch.tensor([1, 1, 0, 0, 0, 0])
    counted = torch.tensor([1, 0, 1, 0, 1, 0]).bool()
    loss = losses.compute_match_loss((logits,), label, counted, WEIGHTED, alone)
    expected = functional.cross_entropy(logits[counted], label[counted], torch.tensor(WEIGHTED))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad[~counted].abs().max() == 0


def test_without_any_pair_that_counts_matching_is_zero_and_so_is_its_gradient() -> None:
    logits = draw(3, 2).requires_grad_()
    loss = losses.compute_match_loss((logits,), torch.tensor([1, 0, 0]), torch.zeros(3).bool(), PLAIN, alone)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.tolist() == [[0, 0]] * 3


@pytest.mark.parametrize(("weights", "value"), [(PLAIN, 0.6365), (WEIGHTED, 0.6931)])
def test_who_never_matches_stays_at_a_value_that_is_known(weights: tuple[float, float], value: float) -> None:
    never = losses.compute_never_loss(2, weights)
    assert never == pytest.approx(value, abs=1e-4)
    label = torch.tensor([1, 0, 0])
    best = min(
        losses.compute_match_loss((torch.tensor([[-x, 0.0]] * 3),), label, label >= 0, weights, alone).item()
        for x in torch.linspace(-3, 3, 2001).tolist()  # every answer that is the same for all pairs
    )
    assert never == pytest.approx(best, abs=1e-5)


def test_words_patches_and_clusters_are_means_over_what_was_hidden() -> None:
    logits, word = draw(5, 11), torch.tensor([1, 2, 3, 4, 5])
    torch.testing.assert_close(
        losses.compute_word_loss(logits, word, alone), functional.cross_entropy(logits, word)
    )
    feature, found = draw(5, 8) * 3 + 1, draw(5, 8, seed=1)
    wanted = (feature - feature.mean(1, keepdim=True)) / feature.std(1, unbiased=False, keepdim=True)
    torch.testing.assert_close(
        losses.compute_feature_loss(found, feature, alone), functional.mse_loss(found, wanted), atol=1e-4, rtol=0
    )


def test_who_finds_the_feature_has_the_least_loss_of_each_kind() -> None:
    feature, centres = draw(40, 8) * 3, draw(6, 8, seed=2)
    wanted = functional.layer_norm(feature, (8,))
    assert losses.compute_feature_loss(wanted, feature, alone) < 1e-6
    assert losses.compute_cluster_loss(wanted, feature, centres, True, alone).abs() < 1e-5
    for soft in (True, False):
        true, other = (
            losses.compute_cluster_loss(one, feature, centres, soft, alone) for one in (wanted, wanted.flip(0))
        )
        assert true < other


def test_the_cluster_of_a_patch_is_a_distribution_or_its_largest() -> None:
    feature, found, centres = draw(7, 8), draw(7, 8, seed=1), draw(4, 8, seed=2)

    def compare(rows: torch.Tensor) -> torch.Tensor:
        return 10 * functional.cosine_similarity(functional.layer_norm(rows, (8,))[:, None], centres[None], dim=-1)

    true, guessed = compare(feature).softmax(1), compare(found).softmax(1)
    expected = (true * (true / guessed).log()).sum(1).mean()
    torch.testing.assert_close(losses.compute_cluster_loss(found, feature, centres, True, alone), expected)
    hard = -guessed[torch.arange(7), true.argmax(1)].log().mean()
    torch.testing.assert_close(losses.compute_cluster_loss(found, feature, centres, False, alone), hard)


def test_recovery_is_one_minus_the_cosine() -> None:
    vector = functional.normalize(draw(3, 8), dim=1)
    assert losses.compute_recovery_loss(4 * vector, vector).item() == pytest.approx(0, abs=1e-6)
    assert losses.compute_recovery_loss(-vector, vector).item() == pytest.approx(2)


def test_two_processes_that_hold_unequal_parts_have_the_mean_of_all() -> None:
    loss, parts = draw(10).square(), (slice(0, 7), slice(7, 10))
    counts = [torch.tensor(7.0), torch.tensor(3.0)]
    mean = torch.stack(counts).mean()
    shares = [
        losses.average_over_counted(loss[part].sum(), count, lambda _: mean)
        for part, count in zip(parts, counts, strict=True)
    ]
    torch.testing.assert_close(torch.stack(shares).mean(), loss.mean())
    assert math.isclose(
        losses.average_over_counted(loss.sum(), torch.tensor(0.0), alone).item(), loss.sum().item()
    )
