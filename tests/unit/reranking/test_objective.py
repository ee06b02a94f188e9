"""A step of the re-ranker: what is judged, what is hidden, what costs nothing, and the same in two processes."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import distributed_rerank_process
from tests.support.checkout import ROOT
from tests.support.reranking import (
    ALL,
    ROWS,
    WORDS,
    compute_gradients,
    find_rows,
    make_batch,
    make_parts,
    make_settings,
    record_read,
    train,
)
from tuwen.core.params import Rerank
from tuwen.reranking import losses
from tuwen.training.loader import Batch


def record_pairs(settings: Rerank, batch: Batch, steps: int) -> list[dict[str, torch.Tensor]]:
    """Return what the cross encoder was given to judge in each step, without the other passes."""
    _, cross, objective = make_parts(settings)
    return [record_read(cross, objective, batch, done) for done in range(steps)]


def test_no_sibling_and_no_equal_caption_is_ever_a_negative_and_all_others_are() -> None:
    batch, seen = make_batch(1), set[tuple[int, int]]()
    for pairs in record_pairs(make_settings(negatives=2), batch, 30):
        text = find_rows(pairs["text"], pairs["text"][:ROWS])
        image = find_rows(pairs["stored"][pairs["image"]], pairs["stored"][:ROWS])
        assert text[:ROWS] == image[:ROWS] == list(range(ROWS))
        seen |= set(zip(image[ROWS:], text[ROWS:], strict=True))
    siblings = [{1, 5, 9}, {0, 11}]
    fitting = {(i, t) for one in siblings for i in one for t in one} | {(i, i) for i in range(ROWS)}
    assert not seen & fitting
    assert len(seen) > 0.8 * (ROWS**2 - len(fitting))


def test_negatives_are_drawn_at_random_first_and_by_similarity_after_the_ramp() -> None:
    batch = make_batch(1)

    def draw(first: float, last: float, ramp: float) -> list[list[int]]:
        settings = make_settings(negatives=4, hardness={"first": first, "last": last, "ramp": ramp})
        steps = settings.fit.epochs * 3  # make_parts: 3 steps an epoch
        dual, cross, objective = make_parts(settings)
        dual.log_scale.data.fill_(9.0)  # as sure of itself as it can be
        return [
            record_read(cross, objective, batch, done)["image"].tolist() for done in (0, steps // 2, steps - 1)
        ]

    random, similar = draw(0.0, 0.0, 0.0), draw(1.0, 1.0, 0.0)
    assert all(one != other for one, other in zip(random, similar, strict=True))
    assert draw(0.0, 1.0, 0.5) == [random[0], similar[1], similar[2]]


def test_the_same_step_draws_the_same_negatives_and_another_seed_others() -> None:
    batch = make_batch(1)
    first, again = (record_pairs(make_settings(), batch, 2) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for one, two in zip(first, again, strict=True) for name in one)
    other = record_pairs(make_settings(seed=1), batch, 2)
    assert not torch.equal(first[0]["image"], other[0]["image"])
    assert not torch.equal(first[0]["image"], first[1]["image"])


def test_words_are_hidden_as_often_in_negatives_as_in_positives() -> None:
    settings, batch, hidden = make_settings({"mlm": 1.0}), make_batch(1), {"positive": 0.0, "negative": 0.0}
    _, cross, objective = make_parts(settings)
    given = record_pairs(settings, batch, 80)
    for done, pairs in enumerate(given):
        draws = objective._draw(cross, *batch.ids.shape, done)
        shown, hidden_BL = objective._hide_words(batch.ids, draws)
        assert torch.equal(shown == WORDS.mask, hidden_BL)
        text = find_rows(pairs["text"], pairs["text"][:ROWS])  # every text is one of the batch as it is shown
        share_B = hidden_BL.float().sum(1) / (batch.mask.sum(1) - 1)
        hidden["positive"] += share_B[text[:ROWS]].mean().item() / len(given)
        hidden["negative"] += share_B[text[ROWS:]].mean().item() / len(given)
    assert hidden["positive"] == pytest.approx(0.3, abs=0.02)
    assert hidden["negative"] == pytest.approx(hidden["positive"], abs=0.03)


def test_one_pass_for_matching_and_words_equals_two_over_the_same_mask() -> None:
    settings, batch = make_settings({"mlm": 0.5}), make_batch(1)
    loss, gradients = compute_gradients(settings, batch, 3)

    dual, cross, objective = make_parts(settings)
    shown, hidden = objective._hide_words(batch.ids, objective._draw(cross, *batch.ids.shape, 3))
    assert 5 < hidden.sum() < 40
    pairs = record_pairs(settings, batch, 4)[-1]
    cross.train()
    judged = cross(pairs["stored"], pairs["text"], pairs["mask"], pairs["image"])
    label = (torch.arange(3 * ROWS) < ROWS).long()
    weights = torch.tensor(settings.class_weights)
    matching = [torch.nn.functional.cross_entropy(head, label, weights) for head in judged.heads]
    with torch.no_grad():
        states, tokens = dual.encode_text_tokens(shown, batch.mask)[1], dual.encode_image_tokens(batch.pixels)[1]
    second = cross(tokens, states, batch.mask)  # the pass that R2D2's enhanced training saves
    words = torch.nn.functional.cross_entropy(cross.predict_tokens(second.text)[hidden], batch.ids[hidden])
    whole = torch.stack(matching).mean() + 0.5 * words
    whole.backward()
    assert loss == pytest.approx(whole.item(), abs=1e-5)
    expected = {name: p.grad for name, p in cross.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=0)


def test_the_teacher_sees_the_whole_text_and_follows_the_student() -> None:
    settings = make_settings({"fgd": 1.0})
    dual, cross, objective = make_parts(settings)
    teacher = objective._teacher.model
    given: list[torch.Tensor] = []
    teacher.register_forward_pre_hook(lambda _, arguments: given.extend(arguments[1][:, 0]))
    pairs = record_pairs(settings, make_batch(1), 1)[0]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    optimizer = torch.optim.SGD(cross.parameters(), lr=1.0)
    optimizer.param_groups[0]["initial_lr"] = 1.0
    objective.take_step(cross, [optimizer], make_batch(1), 1.0, 0)
    with torch.no_grad():
        whole = dual.encode_text_tokens(make_batch(1).ids, make_batch(1).mask)[1][:, 0]
    lengths = make_batch(1).mask.sum(1)
    torch.testing.assert_close(torch.stack(given), whole[lengths.argsort(stable=True)], atol=1e-6, rtol=0)
    assert not torch.allclose(whole, pairs["text"][:ROWS, 0])  # the student's lack words
    moved = 0
    for name, value in cross.state_dict().items():
        torch.testing.assert_close(teacher.state_dict()[name], before[name].lerp(value, 0.1), atol=1e-6, rtol=0)
        moved += not torch.equal(value, before[name])
    assert moved > 10
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_an_objective_of_weight_zero_is_not_computed() -> None:
    settings = make_settings()
    dual, cross, objective = make_parts(settings)
    calls: list[str] = []
    parts = {"words": cross.token_head, "patches": cross.patch_head, "text": cross.text_head, "pairs": cross}
    parts |= {"dual's texts": dual.text_tower, "dual's images": dual.image_tower.layer[0]}
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    terms = objective.compute_terms(cross, make_batch(1), 0)
    assert Counter(calls) == {"dual's images": 1, "dual's texts": 6, "pairs": 8}  # groups of about one length
    assert list(terms) == ["fgr"]
    assert objective.get_state()["teacher"] is None


@pytest.mark.parametrize("name", ["mlm", "mrfr", "mrc", "mrc_kl", "recovery", "fgd"])
def test_every_objective_adds_its_weight_to_the_loss_and_moves_something(name: str) -> None:
    _, cross, objective = make_parts(make_settings({name: 0.7}))
    terms = objective.compute_terms(cross, make_batch(1), 0)
    assert set(terms) == {"fgr", name}
    loss, gradients = compute_gradients(make_settings({name: 0.7}), make_batch(1))
    assert loss == pytest.approx((terms["fgr"] + 0.7 * terms[name]).item(), abs=1e-5)
    stronger = compute_gradients(make_settings({name: 1.4}), make_batch(1))[1]
    assert any(not torch.allclose(stronger[one], gradient) for one, gradient in gradients.items())


def test_a_batch_of_one_image_skips_matching_counts_it_and_moves_nothing_by_it() -> None:
    batch = make_batch(1)._replace(positive_id=torch.zeros(ROWS, dtype=torch.long))
    _, cross, objective = make_parts(make_settings())
    loss = objective.compute_gradients(cross, batch, 0)
    assert loss.item() == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in cross.parameters())
    assert objective.describe_epoch(cross)["fgr_skipped"] == ROWS


def test_a_row_without_a_negative_is_left_out_and_the_others_are_as_before() -> None:
    """Row 0 is a sibling of all others, which are none of each other."""
    batch = make_batch(1, rows=3)._replace(positive_id=torch.tensor([7, 7, 8]), caption_id=torch.tensor([9, 1, 9]))
    _, cross, objective = make_parts(make_settings(class_weights=[1.0, 1.0]))
    terms = objective.compute_terms(cross, batch, 0)
    record = objective.describe_epoch(cross)
    assert record["fgr_skipped"] == 1
    pairs = record_pairs(make_settings(), batch, 1)[0]
    cross.train()
    heads = cross(pairs["stored"], pairs["text"], pairs["mask"], pairs["image"]).heads
    kept, label = torch.tensor([1, 2, 4, 5, 7, 8]), torch.tensor([1, 1, 0, 0, 0, 0])
    expected = torch.stack([torch.nn.functional.cross_entropy(head[kept], label) for head in heads]).mean()
    assert terms["fgr"].item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_reranker_that_tells_nothing_apart_is_named_and_one_that_does_is_not(capsys) -> None:
    settings = make_settings()
    _, cross, objective = make_parts(settings)
    for head in cross.match_heads:  # collapsed: the same answer whatever it is given
        torch.nn.init.zeros_(head.weight)
        head.bias.data = torch.tensor([0.0, 0.0])
    objective.compute_gradients(cross, make_batch(1), 0)
    record = objective.describe_epoch(cross)
    assert record["fgr"] == pytest.approx(losses.compute_never_loss(2, (1.0, 2.0)), abs=1e-4)
    assert record["fgr_accuracy"] == 0
    assert "0.6931 is that of a re-ranker that tells nothing apart" in capsys.readouterr().err


def test_it_learns_which_texts_are_whose_and_the_alarm_falls_silent(tmp_path: Path, capsys) -> None:
    settings = make_settings()
    longer = settings.fit.model_copy(update={"epochs": 30, "lr": 5e-3, "muon_lr": 0.02})
    _, training = train(tmp_path, settings.model_copy(update={"fit": longer}))
    assert training.records[-1]["fgr"] < 0.3 < training.records[0]["fgr"]
    assert training.records[-1]["fgr_accuracy"] > 0.9
    assert capsys.readouterr().err.count("tells nothing apart") < 5  # of thirty epochs, the first ones


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", [1, 2])
def test_a_killed_training_ends_as_the_unbroken_one_with_teacher_clusters_and_record(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUWEN_CHECKPOINT_SECONDS", "0")
    settings = make_settings(ALL)
    whole, training = train(tmp_path / "whole", settings)

    def kill(epoch: int, first_step: int = 0):
        for at in range(first_step, 3):
            if (epoch, at) == (2, step):
                raise Killed
            yield make_batch(1)

    with pytest.raises(Killed):
        train(tmp_path / "broken", settings, kill)
    resumed, again = train(tmp_path / "broken", settings)
    assert again.records == training.records
    assert set(training.records[0]) >= {*ALL, "fgr_accuracy", "fgr_skipped"}
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_one_killed_after_an_epoch_was_measured_counts_no_step_twice(tmp_path: Path) -> None:
    whole, training = train(tmp_path / "whole", make_settings())

    def kill(record: dict[str, float], epoch: int) -> None:
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "broken", make_settings(), log=kill)
    resumed, again = train(tmp_path / "broken", make_settings())
    assert again.records == training.records
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes computed, each with half of the batch."""
    out = tmp_path_factory.mktemp("both")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.support.distributed_rerank_process", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return distributed_rerank_process.compute_results()


@pytest.mark.parametrize("case", distributed_rerank_process.CASES)
def test_two_processes_have_the_gradients_of_one(case: str, both: list[Any], alone: dict[str, Any]) -> None:
    loss, expected = alone[case]
    assert len(expected) > 10
    for own_loss, gradients in (one[case] for one in both):
        assert own_loss == pytest.approx(loss, abs=1e-5)
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=0)


def test_the_record_of_two_processes_is_that_of_one(both: list[Any], alone: dict[str, Any]) -> None:
    for one in both:
        assert one["record"] == pytest.approx(alone["record"], abs=1e-5)


def test_two_processes_fill_the_queue_of_one_and_follow_with_its_teacher(
    both: list[Any], alone: dict[str, Any]
) -> None:
    for one in both:
        assert one["steps"] == pytest.approx(alone["steps"], abs=1e-4)
