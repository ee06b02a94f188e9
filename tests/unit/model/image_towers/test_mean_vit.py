"""The tower of averaged patches against open_clip's: the same weights by a seed, the same bits and gradients."""

from typing import Any

import pytest
import torch

from tests.support.weights import open_clip, stir
from tuwen.model.image_towers.mean_vit import MeanVit

CONFIG = {"size_px": 32, "patch_px": 8, "width": 128, "layers": 2, "patch_dropout": 0.5}
DIM = 24


def make_ours() -> MeanVit:
    torch.manual_seed(0)
    return MeanVit(CONFIG, DIM)


def make_theirs() -> Any:
    torch.manual_seed(0)
    sizes = {"image_size": CONFIG["size_px"], "patch_size": CONFIG["patch_px"]}
    return open_clip.transformer.VisionTransformer(
        **sizes, width=128, layers=2, heads=2, mlp_ratio=4.0, output_dim=DIM, patch_dropout=0.5, pool_type="avg"
    )


def test_a_seed_gives_the_weights_of_open_clip_under_its_names() -> None:
    ours, theirs = make_ours().state_dict(), make_theirs().state_dict()
    assert sorted(ours) == sorted(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_vectors_and_gradients_are_those_of_open_clip(training: bool, half: bool) -> None:
    towers = [stir(make()).train(training) for make in (make_ours, make_theirs)]
    pixels, vectors = torch.randn(4, 3, 32, 32), []
    for tower in towers:
        torch.manual_seed(1)  # of the patches that are left out
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            vectors.append(tower(pixels))
        vectors[-1].float().square().mean().backward()
    assert torch.equal(*vectors)
    gradients = [{name: one.grad for name, one in tower.named_parameters()} for tower in towers]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-3 if half else 1e-5, msg=name)


@torch.no_grad()
def test_the_vector_is_the_projection_of_the_first_token() -> None:
    tower = make_ours().eval()
    vector, tokens = tower.forward_with_tokens(torch.randn(2, 3, 32, 32))
    assert tokens.shape == (2, 17, 128)
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(1), atol=1e-6, rtol=0)
    assert torch.equal(tokens[:, 0] @ tower.proj, vector)
