"""One step on tensors: what it changes, and what it leaves."""

import shutil

import numpy as np
import pytest
import torch

from tests.support.distributed_process import STILL
from tests.support.frozen import make_encoder
from tests.support.library_models import SIZE_PX, TOKENS, load_ours
from tests.support.training import TINY, epoch_batches, fit
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training import optim
from tuwen.training.loader import Batch
from tuwen.training.step import compute_gradients, prepare_model, step


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    torch.manual_seed(7)
    model = DualEncoder(TINY)
    optimizers = optim.make_optimizers(model, fit())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.text_projection.weight.register_hook(lambda gradient: gradient * torch.inf)
    loss = step(model, optimizers, next(epoch_batches(1)), 1.0, fit())
    assert np.isnan(loss)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile on a CPU needs g++, which is not here")
def test_compiled_towers_train_as_the_others_do(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    losses, compiled = {}, []
    for on in (False, True):
        torch.manual_seed(7)
        model, settings = DualEncoder(STILL), fit(compile=on, muon_lr=None)
        prepare_model(model, settings)
        compiled.append(model.image_tower._compiled_call_impl is not None)
        optimizers = optim.make_optimizers(model, settings)
        losses[on] = [step(model, optimizers, batch, 1.0, settings) for batch in epoch_batches(1)]
    assert compiled == [False, True]
    assert list(tmp_path.rglob("*.cpp"))  # something was compiled, not fallen back from
    assert losses[False][-1] < losses[False][0]
    assert losses[True] == pytest.approx(losses[False], abs=1e-4)


@pytest.mark.parametrize("before", [False, True])
def test_a_step_leaves_torchs_switch_for_attention_as_it_was(before: bool) -> None:
    switches, model = torch.backends.cuda, DualEncoder(TINY)
    before_test = switches.fp16_bf16_reduction_math_sdp_allowed()
    try:
        switches.allow_fp16_bf16_reduction_math_sdp(before)
        compute_gradients(model, next(epoch_batches(1)), fit(precision="bf16"))
        assert switches.fp16_bf16_reduction_math_sdp_allowed() == before
    finally:
        switches.allow_fp16_bf16_reduction_math_sdp(before_test)


def test_checkpointed_layers_give_the_same_gradients() -> None:
    batch = next(epoch_batches(1))
    gradients = []
    for on in (False, True):
        torch.manual_seed(7)
        model = DualEncoder(TINY)
        settings = fit(gradient_checkpointing=on)
        prepare_model(model, settings)
        torch.manual_seed(1)
        compute_gradients(model, batch, settings)
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("kind", ["vit", "mean_vit"])
def test_checkpointing_holds_one_block_at_a_time(kind: str) -> None:
    config = make_encoder().config if kind == "vit" else TINY
    model = DualEncoder(config | {side: config[side] | {"layers": 3} for side in ("image", "text")})
    settings, runs = fit(gradient_checkpointing=True), {"image": [], "text": []}
    prepare_model(model, settings)
    image_blocks = model.image_tower.layer if kind == "vit" else model.image_tower.transformer.resblocks
    for side, blocks in (("image", image_blocks), ("text", model.text_tower.encoder.layer)):
        for number, block in enumerate(blocks):
            first = next(one for one in block.modules() if not list(one.children()))
            first.register_forward_pre_hook(lambda *_, seen=runs[side], number=number: seen.append(number))
    compute_gradients(model, Batch(*(column[:1] for column in next(epoch_batches(1)))), settings)
    # a block is computed again just before its own backward pass, when those above it are done
    assert runs == {"image": [0, 1, 2, 2, 1, 0], "text": [0, 1, 2, 2, 1, 0]}


def test_captions_go_through_the_tower_packed_by_length() -> None:
    model, settings, shapes = DualEncoder(TINY), fit(), []
    lengths = torch.tensor([12, *[3] * 7, 11, *[3] * 7])
    mask = (torch.arange(12) < lengths[:, None]).long()
    rows = torch.arange(16)
    batch = Batch(torch.randn(16, 3, 16, 16), mask * 5, mask, rows, rows, tuple(map(str, rows.tolist())))
    first = model.text_tower.encoder.layer[0]
    first.register_forward_pre_hook(lambda _, states: shapes.append(tuple(states[0].shape[:2])))
    compute_gradients(model, batch, settings)
    assert shapes == [(2, 3)] * 7 + [(2, 12)]  # 66 tokens in place of 16 x 12


@pytest.mark.parametrize("kind", ["clip", "siglip2"])
def test_the_towers_of_a_library_train_by_the_loss_they_come_from(kind: str, tmp_path) -> None:
    model, _ = load_ours(kind, tmp_path)
    settings = fit(lr=3e-3, muon_lr=1e-2, gradient_checkpointing=True)
    prepare_model(model, settings)
    before = {name: value.clone() for name, value in model.named_parameters()}
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 24, (8, TOKENS), generator=draw)
    pixels, rows = torch.randn(8, 3, SIZE_PX, SIZE_PX, generator=draw), torch.arange(8)
    batch = Batch(pixels, ids, torch.ones_like(ids), rows, rows, tuple("abcdefgh"))
    optimizers = optim.make_optimizers(model, settings)
    losses = [step(model, optimizers, batch, 1.0, settings) for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {"log_scale", "logit_bias"} - moved == (set() if kind == "siglip2" else {"logit_bias"})
    assert any(name.startswith("image_tower.side.vision_model") for name in moved)
    assert any(name.startswith("text_tower.side.text_model") for name in moved)
