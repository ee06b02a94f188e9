"""CLIP's vision transformer against its definition; tests/unit/model/weights holds it against cn_clip's own."""

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from tuwen.model.architectures import make_vit_config
from tuwen.model.image_towers.vit import Block, VisionTransformer

CONFIG = make_vit_config(size_px=16, patch_px=8, width=64, layers=2)


def make_tower(**changes: object) -> VisionTransformer:
    torch.manual_seed(1)
    return VisionTransformer(CONFIG | changes, dim=16)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_a_block_is_attention_and_a_perceptron_written_out(activation: str) -> None:
    torch.manual_seed(0)
    block, x_BLW = Block(CONFIG | {"activation": activation, "heads": 2}), torch.randn(3, 5, 64)
    for linear in (block.qkv, block.out, block.fc1, block.fc2):
        torch.nn.init.normal_(linear.bias)
    q, k, v = block.qkv(layer_norm(x_BLW, (64,), block.norm1.weight, block.norm1.bias, 1e-5)).split(64, dim=-1)
    heads = []
    for part in (slice(32), slice(32, 64)):
        scores_BLL = q[..., part] @ k[..., part].transpose(1, 2) / 32**0.5
        heads.append(scores_BLL.softmax(-1) @ v[..., part])
    x = x_BLW + block.out(torch.cat(heads, dim=-1))
    inner = block.fc1(layer_norm(x, (64,), block.norm2.weight, block.norm2.bias, 1e-5))
    active = inner * torch.sigmoid(1.702 * inner) if activation == "quick_gelu" else gelu(inner)
    torch.testing.assert_close(block(x_BLW), x + block.fc2(active), atol=1e-5, rtol=0)


def test_patches_are_left_out_in_training_alone() -> None:
    tower, pixels, lengths = make_tower(patch_dropout=0.5), torch.randn(2, 3, 16, 16), []
    tower.layer[0].register_forward_hook(lambda block, inputs, out: lengths.append(out.shape[1]))
    tower.train()(pixels)
    tower.eval()(pixels)
    assert lengths == [1 + 2, 1 + 4]
    assert torch.equal(tower(pixels), tower(pixels))


def test_at_least_one_patch_is_kept_and_each_image_draws_its_own() -> None:
    tower = make_tower(patch_dropout=0.99, layers=1).train()
    pixels = torch.randn(1, 3, 16, 16).expand(64, -1, -1, -1)
    vectors = tower(pixels)
    assert len(torch.unique(vectors.detach().round(decimals=4), dim=0)) == 4  # one for each patch
