"""Gradients of a batch that goes through the towers in parts: those of the whole batch, with dropout on too."""

import shutil

import pytest
import torch

from tests.support.training import TINY, fit
from tuwen.core.errors import UserError
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training import gradcache, step
from tuwen.training.loader import Batch

STILL = TINY | {"image": TINY["image"] | {"patch_dropout": 0.0}, "text": TINY["text"] | {"dropout": 0.0}}
ROWS = 12


def make_batch() -> Batch:
    """Return images with captions of three to eight tokens; every third row has a sibling."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(ROWS, 3, 16, 16, generator=generator)
    ids = torch.randint(5, 24, (ROWS, 8), generator=generator)
    mask = (torch.arange(8) < 3 + torch.arange(ROWS)[:, None] % 6).long()
    rows = torch.arange(ROWS)
    return Batch(pixels, ids * mask, mask, rows // 3 * 3 + (rows % 3 == 2), rows)


def compute(config: dict, chunk: int | None, **changes) -> tuple[float, dict[str, torch.Tensor], torch.Tensor]:
    """Return loss, gradient of every parameter, and the state of the random numbers afterwards."""
    torch.manual_seed(7)
    model = DualEncoder(config)
    settings = fit(chunk=chunk, **changes)
    step.prepare_model(model, settings)
    torch.manual_seed(1)
    loss = step.compute_gradients(model, make_batch(), settings)
    gradients = {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    return loss.item(), gradients, torch.get_rng_state()


def keep_whole_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a step keep the graph of all parts, as if memory did not matter: what GradCache has to equal."""
    cached = step._compute_gradients_cached

    def whole(compute_loss, images, texts_and_back, positive, settings, engine, scale):
        texts, back = texts_and_back
        image, text = (torch.cat([piece() for piece in pieces]) for pieces in (images, texts))
        loss = compute_loss(image, text[back], positive)
        torch.autograd.backward(loss)
        return loss

    monkeypatch.setattr(step, "_compute_gradients_cached", whole)
    assert cached is not whole


def compute_difference(one: dict, two: dict) -> float:
    assert one.keys() == two.keys()
    return max((one[name] - two[name]).abs().max().item() for name in one)


@pytest.mark.parametrize(("chunk", "dims"), [(1, []), (5, [16, 8]), (12, [])])
def test_without_dropout_parts_give_the_gradients_of_the_whole_batch(chunk: int, dims: list[int]) -> None:
    loss, whole, _ = compute(STILL, None, matryoshka=dims)
    again, parts, _ = compute(STILL, chunk, matryoshka=dims)
    assert again == pytest.approx(loss, abs=1e-6)
    assert "log_scale" in whole
    assert max(value.abs().max() for value in whole.values()) > 0.05
    assert compute_difference(whole, parts) < 1e-5


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True}, {"precision": "bf16"}])
def test_with_dropout_and_left_out_patches_they_equal_those_of_one_graph(changes, monkeypatch) -> None:
    config = TINY | {"text": TINY["text"] | {"dropout": 0.3}}
    loss, parts, state = compute(config, 5, **changes)
    with monkeypatch.context() as patch:
        patch.setattr(gradcache, "set_random_state", lambda state: None)
        _, astray, _ = compute(config, 5, **changes)
    keep_whole_graph(monkeypatch)
    again, whole, state_of_whole = compute(config, 5, **changes)
    assert again == pytest.approx(loss, abs=1e-6)
    assert compute_difference(whole, parts) < 1e-5
    assert compute_difference(whole, astray) > 1e-3  # without the restored state the check above could not hold
    assert torch.equal(state, state_of_whole)  # the next step draws what it would have drawn


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile on a CPU needs g++, which is not here")
def test_compiled_parts_draw_the_same_dropout_both_times(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    batch = make_batch()
    whole = batch._replace(mask=torch.ones_like(batch.mask))  # texts of one length: each shape is compiled anew
    monkeypatch.setattr(f"{__name__}.make_batch", lambda: whole)
    config = TINY | {"text": TINY["text"] | {"dropout": 0.3}}
    loss, parts, state = compute(config, 6)
    again, compiled, state_of_compiled = compute(config, 6, compile=True)
    assert list(tmp_path.rglob("*.cpp"))  # something was compiled, not fallen back from
    assert again == pytest.approx(loss, abs=1e-5)
    assert compute_difference(parts, compiled) < 1e-5
    assert torch.equal(state, state_of_compiled)


def test_compiling_on_a_cpu_without_a_compiler_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"compile: true needs a C\+\+ compiler .* no-such-compiler is not here"):
        step.prepare_model(DualEncoder(TINY), fit(compile=True))


@pytest.mark.parametrize("tower", ["text", "image"])
def test_a_frozen_tower_goes_through_once_and_has_no_gradient(tower) -> None:
    _, whole, _ = compute(STILL, None, freeze=tower)
    _, parts, _ = compute(STILL, 5, freeze=tower)
    assert whole
    assert not [name for name in whole if name.startswith(f"{tower}_")]
    assert compute_difference(whole, parts) < 1e-5


def test_a_tower_with_batch_norm_is_refused_with_the_reason_unless_it_is_frozen() -> None:
    model = DualEncoder(TINY)
    model.image_tower.stem = torch.nn.BatchNorm2d(3)
    with pytest.raises(
        UserError, match=r"fit: chunk: 4: image_tower\.stem is a BatchNorm: .*that part's own mean"
    ):
        step.prepare_model(model, fit(chunk=4))
    step.prepare_model(model, fit(chunk=4, freeze="image"))
    step.prepare_model(model, fit())
