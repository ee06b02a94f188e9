"""What masked patches are compared with: the teacher's tokens where there is one, else the towers' own."""

from typing import Any

import pytest
import torch

from tests.support.reranking import (
    ALL,
    DUAL,
    ROWS,
    make_batch,
    make_joint,
    make_parts,
    make_settings,
    make_trained,
    record_read,
)
from tuwen.reranking import losses, regions
from tuwen.reranking.joint import JointModel
from tuwen.reranking.objective import Matching

MASKED = {"mrfr": 1.0, "mrc": 1.0, "mrc_kl": 1.0, "fgd": 0.1}
LOSSES = ("compute_feature_loss", "compute_cluster_loss")


def record_targets(model: Any, objective: Matching) -> list[torch.Tensor]:
    """Return the features that each loss of masked patches was given in a step, and the clusters' centres."""
    targets: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in LOSSES:
            compute = getattr(losses, name)

            def keep(found: torch.Tensor, target: torch.Tensor, *others: Any, compute: Any = compute) -> Any:
                targets.append(target)
                return compute(found, target, *others)

            patch.setattr(losses, name, keep)
        objective.compute_terms(model, make_batch(1), 0)
    assert objective._regions.centres is not None
    return [*targets, objective._regions.centres]


def move_image_tower(model: JointModel) -> None:
    with torch.no_grad():
        for number, parameter in enumerate(model.dual.image_tower.parameters()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))


def test_the_target_is_the_teachers_and_stays_where_the_students_tower_moves() -> None:
    model, objective = make_joint(make_trained(MASKED))
    before = record_targets(model, objective)
    move_image_tower(model)
    objective._regions.centres = None
    after = record_targets(model, objective)
    assert len(before) == 4
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad


def test_without_a_teacher_the_target_is_what_the_towers_say_now() -> None:
    model, objective = make_joint(make_trained(MASKED | {"fgd": 0.0}))
    before = record_targets(model, objective)
    move_image_tower(model)
    objective._regions.centres = None
    for one, other in zip(before, record_targets(model, objective), strict=True):
        assert not torch.allclose(one, other)
        assert not one.requires_grad


def test_frozen_towers_are_asked_for_their_own_tokens_with_a_teacher_or_without() -> None:
    dual, cross, objective = make_parts(make_settings(ALL))
    _, other, without = make_parts(make_settings(ALL | {"fgd": 0.0}))
    tokens = dual.encode_image_tokens(make_batch(1).pixels)[1]
    hidden = objective._draw(cross, ROWS, 10, 0).patches < 0.3
    hidden[:, : regions.FIRST_PATCH] = False
    found = record_targets(cross, objective)
    assert torch.equal(found[0], tokens[hidden])
    for one, same in zip(found, record_targets(other, without), strict=True):
        assert torch.equal(one, same)


@pytest.mark.parametrize(("objectives", "patches"), [(MASKED, 16), ({"fgd": 0.1}, 8), (MASKED | {"fgd": 0.0}, 8)])
def test_beside_a_teacher_no_patch_is_left_out_where_masked_ones_are_asked_for(
    objectives: dict[str, float], patches: int
) -> None:
    settings = make_trained(objectives)
    dual, cross, objective = make_parts(settings, DUAL)
    model = JointModel(dual, cross)
    objective.prepare(model, 3)
    model.train()
    assert record_read(model, objective, make_batch(1))["stored"].shape[1] == 1 + patches
