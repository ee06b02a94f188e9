"""Towers that are trained with the cross encoder: by their own loss, by the others, beside a teacher of both."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.reranking import (
    ALL,
    DUAL,
    LOOP,
    ROWS,
    TGD,
    compute_gradients,
    find_rows,
    make_batch,
    make_joint,
    make_parts,
    make_settings,
    make_trained,
    record_read,
    train,
)
from tests.support.training import FIT
from tuwen.core.params import Fit
from tuwen.reranking.joint import JointModel
from tuwen.training import step
from tuwen.training.objective import Contrastive


def make_fit(**changes: Any) -> Fit:
    return Fit.model_validate(FIT | {"batch_size": ROWS} | changes)


def make_still(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """An optimizer that moves nothing."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.param_groups[0]["initial_lr"] = 0.0
    return [optimizer]


def test_the_towers_learn_by_matching_what_one_graph_over_all_of_it_says() -> None:
    settings, batch = make_trained({"gcpr": 0.0}), make_batch(1)
    loss, gradients = compute_gradients(settings, batch, 3)

    model, objective = make_joint(settings)
    given = record_read(model, objective, batch, 3)
    text = find_rows(given["text"], given["text"][:ROWS])
    model.train()
    tokens, states = model.dual.encode_image_tokens(batch.pixels)[1], model.dual.encode_text_tokens(*batch[1:3])[1]
    heads = model.cross(tokens, states[text], batch.mask[text], given["image"]).heads
    label, weights = (torch.arange(3 * ROWS) < ROWS).long(), torch.tensor(settings.class_weights)
    whole = torch.stack([torch.nn.functional.cross_entropy(head, label, weights) for head in heads]).mean()
    whole.backward()
    assert loss == pytest.approx(whole.item(), abs=1e-5)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    assert sum(gradient.any().item() for name, gradient in gradients.items() if name.startswith("dual.")) > 20
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=0)


def test_gcpr_is_the_contrastive_loss_of_a_dual_encoder_and_adds_its_gradient() -> None:
    batch = make_batch(1)
    without, with_it = (compute_gradients(make_trained({"gcpr": weight}), batch) for weight in (0.0, 0.7))
    model, objective = make_joint(make_trained())
    step.prepare_model(model.dual, make_fit())
    own = step.compute_gradients(model.dual, batch, make_fit()).item()
    assert objective.compute_terms(model, batch, 0)["gcpr"].item() == pytest.approx(own, abs=1e-5)
    assert with_it[0] - without[0] == pytest.approx(0.7 * own, abs=1e-5)
    for name, parameter in model.dual.named_parameters():
        before = without[1].get(f"dual.{name}", torch.zeros(()))
        added = with_it[1][f"dual.{name}"] - before
        torch.testing.assert_close(added, 0.7 * parameter.grad, atol=1e-5, rtol=0)
    for name, gradient in without[1].items():
        if name.startswith("cross."):
            torch.testing.assert_close(with_it[1][name], gradient, atol=1e-6, rtol=0)


def test_tgd_is_that_of_a_dual_encoder_with_the_same_teacher_and_queue() -> None:
    model, objective = make_joint(make_trained(tgd=TGD))
    contrastive = Contrastive(make_fit(distil=TGD | {"momentum": 0.9}))
    alone = make_joint(make_trained())[0].dual
    contrastive.prepare(alone, 3)
    with torch.no_grad():  # the students move away from their teachers, both to the same place
        for towers in (model.dual, alone):
            for number, parameter in enumerate(towers.parameters()):
                parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    objective._teacher.update = contrastive._teacher.update = lambda _: None
    first, second = make_batch(2), make_batch(3)
    objective.take_step(model, make_still(model), first, 1.0, 1)
    contrastive.take_step(alone, make_still(alone), first, 1.0, 1)
    worth = contrastive.describe_epoch(alone)["queue_size"]
    found = objective.compute_terms(model, second, 2)["gcpr"].item()
    assert found == pytest.approx(contrastive.take_step(alone, make_still(alone), second, 1.0, 2), abs=1e-5)
    assert found != pytest.approx(make_joint(make_trained())[1].compute_terms(model, second, 2)["gcpr"].item())
    assert objective.describe_epoch(model)["queue_size"] == pytest.approx(worth)


def test_the_teacher_of_both_reads_whole_texts_and_follows_the_towers_too() -> None:
    model, objective = make_joint(make_trained({"mlm": 0.5, "fgd": 1.0}, tgd=TGD))
    teacher, batch = objective._teacher.model, make_batch(1)
    read: dict[str, torch.Tensor] = {}
    for name, one in (("student", model), ("teacher", teacher)):
        table = one.dual.text_tower.get_input_embeddings()
        table.register_forward_pre_hook(lambda _, given, name=name: read.update({name: given[0]}))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.param_groups[0]["initial_lr"] = 1.0
    objective.take_step(model, [optimizer], batch, 1.0, 0)
    assert torch.equal(read["teacher"], batch.ids)
    assert not torch.equal(read["student"], batch.ids)
    moved = set()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(teacher.state_dict()[name], before[name].lerp(value, 0.1), atol=1e-6, rtol=0)
        moved |= {name.split(".")[0]} if not torch.equal(value, before[name]) else set()
    assert moved == {"dual", "cross"}


def test_one_text_pass_serves_all_where_nothing_asks_for_the_whole_text() -> None:
    for objectives, passes in (({"mlm": 0.5}, 1), ({"mlm": 0.5, "recovery": 1.0}, 2), ({"recovery": 1.0}, 1)):
        model, objective = make_joint(make_trained(objectives))
        calls: list[str] = []
        table = model.dual.text_tower.get_input_embeddings()
        table.register_forward_hook(lambda *_, calls=calls: calls.append("looked up"))
        objective.compute_terms(model, make_batch(1), 0)
        assert len(calls) == passes


def test_half_precision_leaves_no_weight_without_its_gradient() -> None:
    fit = LOOP | {"precision": "bf16"}
    whole = compute_gradients(make_trained(ALL, tgd=TGD), make_batch(1))
    half = compute_gradients(make_trained(ALL, tgd=TGD, fit=fit), make_batch(1))
    assert half[1].keys() == whole[1].keys()
    assert half[0] == pytest.approx(whole[0], rel=0.02)


class Killed(Exception):
    pass


def test_a_killed_training_ends_as_the_unbroken_one_with_towers_queue_and_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUWEN_CHECKPOINT_SECONDS", "0")
    settings = make_trained(ALL, tgd=TGD, fit=LOOP | {"ema": 0.9})

    def kill(epoch: int, first_step: int = 0):
        for at in range(first_step, 3):
            if (epoch, at) == (2, 1):
                raise Killed
            yield make_batch(1)

    whole, training = train(tmp_path / "whole", settings)
    with pytest.raises(Killed):
        train(tmp_path / "broken", settings, kill)
    resumed, again = train(tmp_path / "broken", settings)
    assert again.records == training.records
    assert set(training.records[0]) >= {*ALL, "gcpr", "temperature", "queue_size"}
    assert training.records[0]["temperature"] != training.records[-1]["temperature"]
    assert again.ema.weights.keys() == whole.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
        assert torch.equal(training.ema.weights[name], again.ema.weights[name]), name


def test_vectors_and_matches_both_learn_whose_texts_are_whose(tmp_path: Path) -> None:
    fit = LOOP | {"epochs": 30, "lr": 5e-3, "muon_lr": 0.02}
    model, training = train(tmp_path, make_trained(fit=fit))
    assert training.records[-1]["fgr"] < 0.3 < training.records[0]["fgr"]
    assert training.records[-1]["gcpr"] < 0.7 * training.records[0]["gcpr"]
    assert training.records[-1]["fgr_accuracy"] > 0.9
    assert 1 <= model.dual.scale.item() <= 100


def test_towers_that_draw_are_in_training_mode_and_frozen_ones_are_not() -> None:
    settings = make_trained()
    dual, cross, objective = make_parts(settings, DUAL)
    model = JointModel(dual, cross)
    objective.prepare(model, 3)
    first, second = (objective.compute_gradients(model, make_batch(1), 0).item() for _ in range(2))
    assert first != second  # patch dropout
    _, still, frozen = make_parts(make_settings())
    one, two = (frozen.compute_gradients(still, make_batch(1), 0).item() for _ in range(2))
    assert one == two
