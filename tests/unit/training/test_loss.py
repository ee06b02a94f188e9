"""The loss against its definition, and against the equation that the contest's source prints."""

import math
from types import SimpleNamespace

import pytest
import torch

from tuwen.core.errors import UserError
from tuwen.training.loss import (
    compare_ids,
    compute_contrastive_loss,
    compute_guided_loss,
    compute_sigmoid_loss,
    nest_loss,
    require_prefixes,
)


def draw_unit(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator, dtype=torch.float64), dim=-1)


def compute_naively(image, text, scale: float, positive) -> float:
    """The definition, term by term: cross-entropy against targets spread evenly over the positives."""
    rows, total = len(image), 0.0
    for query, gallery, truth in ((image, text, positive), (text, image, positive.T)):
        for i in range(rows):
            logits = [scale * float(query[i] @ gallery[j]) for j in range(rows)]
            log_sum = math.log(sum(math.exp(value) for value in logits))
            mine = [j for j in range(rows) if truth[i, j]]
            total += sum(log_sum - logits[j] for j in mine) / len(mine) / rows
    return total / 2


@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 2, 2], [3, 3, 3, 3, 3, 3]])
def test_equals_the_definition_with_and_without_siblings(groups) -> None:
    image, text = draw_unit(6, 1), draw_unit(6, 2)
    positive = compare_ids(torch.tensor(groups), torch.tensor(groups))
    loss = compute_contrastive_loss(image, text, torch.tensor(14.0), positive)
    assert loss.item() == pytest.approx(compute_naively(image, text, 14.0, positive), rel=1e-5)


@pytest.mark.parametrize("groups", [[0, 1, 2, 3], [0, 0, 1, 1]])
def test_the_sigmoid_loss_equals_its_definition(groups) -> None:
    image, text = draw_unit(4, 6), draw_unit(4, 7)
    positive, total = compare_ids(torch.tensor(groups), torch.tensor(groups)), 0.0
    for i in range(4):
        for j in range(4):
            logit = 9.0 * float(image[i] @ text[j]) - 2.0
            total += math.log1p(math.exp(-logit if groups[i] == groups[j] else logit)) / 4
    loss = compute_sigmoid_loss(image, text, torch.tensor(9.0), torch.tensor(-2.0), positive)
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_without_siblings_it_is_clips_loss() -> None:
    image, text = draw_unit(6, 3), draw_unit(6, 4)
    logits = 14.0 * image @ text.T
    target = torch.arange(6)
    clip = (
        torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
    ) / 2
    loss = compute_contrastive_loss(image, text, torch.tensor(14.0), torch.eye(6, dtype=torch.bool))
    assert loss.item() == pytest.approx(clip.item(), rel=1e-5)


def test_positives_are_pairwise_never_transitive() -> None:
    # 0 and 1 share an image, 1 and 2 share a caption; 0 and 2 share nothing
    positive_id, caption_id = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    positive = compare_ids(positive_id, positive_id) | compare_ids(caption_id, caption_id)
    assert positive.tolist() == [[True, True, False], [True, True, True], [False, True, True]]


def test_a_sibling_taken_for_a_negative_would_be_pushed_away() -> None:
    image = draw_unit(2, 5)
    text = image.clone()
    image[1], text[1] = image[0], text[0]  # two views of one original
    text = text.requires_grad_()
    aware = compute_contrastive_loss(image, text, torch.tensor(14.0), torch.ones(2, 2, dtype=torch.bool))
    blind = compute_contrastive_loss(image, text, torch.tensor(14.0), torch.eye(2, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(aware, text)
    assert gradient.abs().max() < 1e-6
    (gradient,) = torch.autograd.grad(blind, text)
    assert blind.item() == pytest.approx(math.log(2), rel=1e-5)


def compute_as_printed(image, text, scale: float) -> torch.Tensor:
    """Return -log exp(s_ii) / sum over k != i of exp(s_ik), image x text: no positive below the line."""
    logits = scale * image @ text.T
    others = torch.eye(len(image), dtype=torch.bool)
    directions = (logits, logits.T)
    return sum((d.masked_fill(others, -torch.inf).logsumexp(1) - d.diagonal()).mean() for d in directions) / 2


def test_the_equation_that_the_source_prints_has_no_lowest_value() -> None:
    axes = torch.eye(4, 8, dtype=torch.float64)  # every image on its text, as far from the others as can be
    positive = torch.eye(4, dtype=torch.bool)
    scales = [1.0, 10.0, 100.0, 1000.0]
    ours = [compute_contrastive_loss(axes, axes, torch.tensor(scale), positive).item() for scale in scales]
    theirs = [compute_as_printed(axes, axes, scale).item() for scale in scales]
    assert min(ours) >= 0
    assert theirs == pytest.approx([math.log(3) - scale for scale in scales])  # falls with the scale without end
    scale = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    (pull,) = torch.autograd.grad(compute_as_printed(axes, axes, scale), scale)
    assert pull.item() == pytest.approx(-1.0)  # a solved batch still asks for a larger scale, as strongly as ever
    scale = torch.tensor(10.0, requires_grad=True)
    (pull,) = torch.autograd.grad(compute_contrastive_loss(axes, axes, scale, positive), scale)
    assert -2e-4 < pull.item() <= 0


def test_shares_of_a_batch_add_up_to_the_loss_of_the_whole() -> None:
    image, text = draw_unit(6, 7), draw_unit(6, 8)
    groups = torch.tensor([0, 1, 2, 1, 0, 3])  # siblings stand in both shares
    whole = compute_contrastive_loss(image, text, torch.tensor(14.0), compare_ids(groups, groups))
    shares = [
        compute_contrastive_loss(
            image[part], text[part], torch.tensor(14.0), compare_ids(groups[part], groups), image, text
        )
        for part in (slice(3), slice(3, 6))
    ]
    assert sum(shares).item() / 2 == pytest.approx(whole.item(), rel=1e-6)


def test_half_precision_vectors_meet_in_single_precision() -> None:
    image, text = draw_unit(6, 9).bfloat16(), draw_unit(6, 10).bfloat16()
    scale, positive = torch.tensor(14.0), torch.eye(6, dtype=torch.bool)
    for others in ((), (image, text)):
        loss = compute_contrastive_loss(image, text, scale, positive, *others)
        exact = compute_contrastive_loss(
            image.double(), text.double(), scale, positive, *(one.double() for one in others)
        )
        assert loss.dtype == torch.float32
        assert torch.equal(loss, exact)


def test_nested_losses_are_the_mean_over_the_whole_vectors_and_their_first_dimensions() -> None:
    image, text, scale = draw_unit(6, 1), draw_unit(6, 2), torch.tensor(14.0)
    positive = compare_ids(torch.tensor([0, 0, 1, 2, 3, 3]), torch.tensor([0, 0, 1, 2, 3, 3]))

    def compute(images: torch.Tensor, texts: torch.Tensor, fit: torch.Tensor) -> torch.Tensor:
        return compute_contrastive_loss(images, texts, scale, fit)

    assert nest_loss(compute, []) is compute  # off is the very same loss
    expected = compute_naively(image, text, 14.0, positive)
    for dim in (4, 2):
        ours = [one[:, :dim] / one[:, :dim].norm(dim=1, keepdim=True) for one in (image, text)]
        expected += compute_naively(*ours, 14.0, positive)
    assert nest_loss(compute, [4, 2])(image, text, positive).item() == pytest.approx(expected / 3, rel=1e-5)


def test_prefixes_lie_under_the_dimensions_of_the_model() -> None:
    model = SimpleNamespace(config={"dim": 32})
    require_prefixes([31, 8], model)
    with pytest.raises(UserError, match=r"matryoshka: must lie under 32, the dimensions of this model, got 32"):
        require_prefixes([32, 8], model)


def test_the_guide_is_met_by_itself() -> None:
    teacher, student = draw_unit(3, 1), draw_unit(3, 2)
    target = teacher.softmax(1)
    expected = -(target * student.log_softmax(1)).sum(1).mean().item()
    assert compute_guided_loss(student, teacher).item() == pytest.approx(expected, abs=1e-6)
    entropy = -(target * target.log()).sum(1).mean().item()
    assert compute_guided_loss(teacher, teacher).item() == pytest.approx(entropy, abs=1e-6)
    assert entropy < expected
