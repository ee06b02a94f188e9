"""What the start model holds for as alike as the true pairs: against a plain restatement, and out of the loss."""

import math

import pytest
import torch

from tests.support.distributed_process import STILL, make_global_batch
from tests.support.frozen import VOCABULARY, KeyedViews, frozen_fit, make_encoder
from tests.support.training import fit
from tuwen.core.params import Fit
from tuwen.data.formats.text import make_tokenizer
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training import optim, step
from tuwen.training.frozen.pooled_views import PooledViews
from tuwen.training.frozen.projections import Projections
from tuwen.training.loss import compute_contrastive_loss, compute_sigmoid_loss
from tuwen.training.negatives.alike import find_alike
from tuwen.training.objective import Contrastive

Related = list[list[bool]]


def draw_unit(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 4, generator=generator), dim=-1)


def restate_alike(image: torch.Tensor, text: torch.Tensor, margin: float) -> Related:
    """Image i with text j: as alike as i's own text, and as j's own image."""
    rows, cosine = range(len(image)), (image @ text.T).tolist()
    return [[cosine[i][j] >= max(cosine[i][i], cosine[j][j]) - margin for j in rows] for i in rows]


def restate_loss(image: torch.Tensor, text: torch.Tensor, scale: float, positive: Related, out: Related) -> float:
    """The definition, row by row, over what is not left out."""
    rows, total = range(len(image)), 0.0
    for query, gallery, turned in ((image, text, False), (text, image, True)):
        for i in rows:
            kept = [j for j in rows if positive[i][j] or not (out[j][i] if turned else out[i][j])]
            mine = [j for j in rows if positive[i][j]]
            log_sum = math.log(sum(math.exp(scale * float(query[i] @ gallery[j])) for j in kept))
            total += sum(log_sum - scale * float(query[i] @ gallery[j]) for j in mine) / len(mine) / len(image)
    return total / 2


@pytest.mark.parametrize("margin", [-0.2, 0.0, 0.3, 2.0])
def test_the_loss_is_that_of_its_plain_restatement(margin: float) -> None:
    start, own = (draw_unit(9, 1), draw_unit(9, 2)), (draw_unit(9, 3), draw_unit(9, 4))
    groups = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 7])
    positive = groups[:, None] == groups
    alike, due = find_alike(*start, margin), restate_alike(*start, margin)
    own_pair = torch.eye(9).bool()  # always a positive, so it does not matter which side of its bar it rounds to
    assert (alike.text | own_pair).tolist() == (torch.tensor(due) | own_pair).tolist()
    assert torch.equal(alike.image | own_pair, alike.text.T | own_pair)
    assert margin != 0.3 or 9 < alike.text.sum() < 81
    loss = compute_contrastive_loss(*own, torch.tensor(5.0), positive, left_out=alike)
    assert loss.item() == pytest.approx(restate_loss(*own, 5.0, positive.tolist(), due), abs=1e-5)
    plain = compute_contrastive_loss(*own, torch.tensor(5.0), positive).item()
    assert (loss.item() == pytest.approx(plain, abs=1e-6)) == (margin < 0.0 and not (alike.text & ~positive).any())


def test_what_is_left_out_has_no_gradient_and_a_sigmoid_knows_it_too() -> None:
    image, text = draw_unit(3, 5), draw_unit(3, 6).requires_grad_()
    out = torch.tensor([[True, False, True], [False, True, True], [False, False, True]])
    loss = compute_contrastive_loss(image, text, torch.tensor(5.0), torch.eye(3).bool(), left_out=(out, ~out.T))
    (gradient,) = torch.autograd.grad(loss, text)
    assert torch.isfinite(gradient).all()
    bias, rest = torch.tensor(-1.0), ~out | torch.eye(3).bool()
    losses = torch.nn.functional.softplus(
        torch.where(torch.eye(3).bool(), -1.0, 1.0) * (5.0 * image @ text.T + bias)
    )
    found = compute_sigmoid_loss(image, text, torch.tensor(5.0), bias, torch.eye(3).bool(), out)
    assert found.item() == pytest.approx((losses * rest).sum().item() / 3, rel=1e-6)


def take_steps(settings: Fit) -> list[float]:
    torch.manual_seed(7)
    model, objective = DualEncoder(STILL), Contrastive(settings)
    objective.prepare(model, 3)
    optimizers = optim.make_optimizers(model, settings)
    return [objective.take_step(model, optimizers, make_global_batch(done), 1.0, done) for done in range(3)]


@pytest.mark.parametrize("chunk", [None, 5])
def test_a_training_asks_the_model_that_it_began_with(chunk: int | None) -> None:
    """Three steps written out; after the first the model is another one than that which is asked."""
    settings = fit(batch_size=12, siblings="masked", mask_margin=0.1, chunk=chunk)
    torch.manual_seed(7)
    model, start = DualEncoder(STILL), DualEncoder(STILL).eval()
    start.load_state_dict(model.state_dict())
    optimizers, losses = optim.make_optimizers(model, settings), []
    for number in range(3):
        batch = make_global_batch(number)
        with torch.no_grad():
            image, text = start.encode_image(batch.pixels), start.encode_text(batch.ids, batch.mask)
            alike = find_alike(image, text, 0.1)
        ids = torch.stack([batch.positive_id, batch.caption_id], 1)
        assert (alike.text & ~step.find_positives(ids)).any()
        losses.append(step.step(model, optimizers, batch, 1.0, settings, alike=alike))
    assert take_steps(settings) == pytest.approx(losses, abs=1e-5)
    plain = take_steps(settings.model_copy(update={"siblings": "positives", "mask_margin": None}))
    assert all(masked < whole for masked, whole in zip(losses, plain, strict=True))


def test_projections_alone_are_trained_by_the_same_loss() -> None:
    settings = frozen_fit(siblings="masked", mask_margin=0.1)
    model, objective = make_encoder(), Projections(settings)
    objective.prepare(model, 3)
    views = PooledViews(KeyedViews(), model, make_tokenizer(VOCABULARY), settings)
    (batch, *_) = views.load_batches(seed=0, epoch=1)
    image, text = model.project_image(batch.image), model.project_text(batch.text)
    alike = find_alike(image, text, 0.1)
    due = compute_contrastive_loss(image, text, model.scale, torch.eye(8).bool(), left_out=alike).item()
    assert due < compute_contrastive_loss(image, text, model.scale, torch.eye(8).bool()).item()
    assert objective.take_step(model, optim.make_optimizers(model, settings), batch, 1.0, 0) == pytest.approx(due)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"siblings": "masked"}, "mask_margin must be a number"),
        ({"mask_margin": 0.1}, "mask_margin must be a number where siblings is masked, and null elsewhere"),
        ({"siblings": "masked", "mask_margin": 0.1, "shard": "full"}, "needs distil: null and shard: none"),
    ],
)
def test_a_margin_goes_with_masked_alone(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(**changes)
