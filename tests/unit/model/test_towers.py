"""The towers by kind; what they compute is compared with open_clip and transformers in weights/."""

import pytest
import torch

from tuwen.core.errors import UserError
from tuwen.model import architectures, towers

MEAN_VIT = {"size_px": 32, "patch_px": 16, "width": 64, "layers": 2, "patch_dropout": 0.0}
VISION_CFG = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16}
IMAGE_CONFIGS = {
    "vit": architectures.make_vit_config(32, 16, 64, 2),
    "resnet": architectures.make_resnet_config(32, 16, [1, 1, 1, 1]),
    "open_clip": {
        "kind": "open_clip",
        "size_px": 32,
        "embed_dim": 24,
        "vision_cfg": VISION_CFG,
        "quick_gelu": True,
    },
    "mean_vit": MEAN_VIT,
}


@pytest.mark.parametrize("kind", IMAGE_CONFIGS)
def test_every_kind_maps_pixels_to_the_common_space(kind: str) -> None:
    tower = towers.make_image_tower(IMAGE_CONFIGS[kind], 8).eval()
    assert tower(torch.randn(2, 3, 32, 32)).shape == (2, 8)


def test_a_kind_that_is_none_is_named_with_those_that_are() -> None:
    with pytest.raises(
        UserError,
        match=r"image\.kind: expected one of vit, resnet, open_clip, efficientnet_lite0, mean_vit, transformers, "
        r"open_clip_hub, got 'cnn'",
    ):
        towers.make_image_tower({"kind": "cnn"}, 8)


@pytest.mark.parametrize("kind", ["vit", "open_clip", "mean_vit"])
def test_checkpointing_an_image_tower_keeps_its_gradients(kind: str) -> None:
    torch.manual_seed(0)
    tower = towers.make_image_tower(IMAGE_CONFIGS[kind], 8).train()
    pixels, gradients = torch.randn(2, 3, 32, 32), []
    for enabled in (False, True, False):
        towers.set_image_checkpointing(tower, enabled)
        tower.zero_grad()
        tower(pixels).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in tower.parameters()])
    for plain, again, off in zip(*gradients, strict=True):
        assert torch.equal(plain, again)
        assert torch.equal(plain, off)


def test_open_clips_own_projection_is_replaced_by_a_fresh_one() -> None:
    tower = towers.make_image_tower(IMAGE_CONFIGS["open_clip"], 8)
    assert tower.tower.proj is None
    assert tower.projection.weight.shape == (8, 64)


def test_a_text_tower_takes_from_bert_what_its_config_leaves_out() -> None:
    config = {"width": 128, "layers": 3, "dropout": 0.25, "max_tokens": 24}
    shape = towers.make_text_tower(config, 50).shape
    assert (shape.heads, shape.mlp, shape.positions) == (2, 512, 24)
    assert (shape.eps, shape.activation, shape.vocabulary) == (1e-12, "gelu", 50)
    assert shape.dropout == 0.25
    named = towers.make_text_tower(config | {"heads": 4, "mlp": 96, "positions": 60, "eps": 1e-5}, 50).shape
    assert (named.heads, named.mlp, named.positions, named.eps) == (4, 96, 60, 1e-5)
