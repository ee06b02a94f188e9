"""The tokens that a re-ranker reads of an image, of each kind of tower."""

import pytest
import torch

from tuwen.core.errors import UserError
from tuwen.model import architectures
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.image_tokens import TokenShape, infer_token_shape

SIZE_PX = 32
OPEN_CLIP = {"kind": "open_clip", "size_px": SIZE_PX, "embed_dim": 24, "quick_gelu": False}
VISION = {"image_size": SIZE_PX, "layers": 2, "width": 64, "patch_size": 8}
TIMM = {"image_size": SIZE_PX, "timm_model_pretrained": False, "timm_proj": "linear"}
TOWERS = {
    "vit": (architectures.make_vit_config(SIZE_PX, 8, 64, 2), TokenShape(17, 64)),
    "mean_vit": (
        {"size_px": SIZE_PX, "patch_px": 8, "width": 64, "layers": 2, "patch_dropout": 0.5},
        TokenShape(17, 64),
    ),
    "open_clip": (OPEN_CLIP | {"vision_cfg": VISION}, TokenShape(17, 64)),
    "open_clip, norm after the pooling": (
        OPEN_CLIP | {"vision_cfg": VISION | {"pool_type": "avg", "final_ln_after_pool": True}},
        TokenShape(17, 64),
    ),
    "CoCa's pooling": (
        OPEN_CLIP | {"vision_cfg": VISION | {"attentional_pool": True, "attn_pooler_queries": 4}},
        TokenShape(17, 64),
    ),
    "timm with [CLS]": (
        OPEN_CLIP | {"vision_cfg": TIMM | {"timm_model_name": "test_vit", "timm_pool": "token"}},
        TokenShape(101, 64),
    ),
    "timm without": (
        OPEN_CLIP | {"vision_cfg": TIMM | {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg"}},
        TokenShape(197, 192),
    ),
}
NO_TOKENS = {
    "ModifiedResNet": architectures.make_resnet_config(64, 16, [1, 1, 1, 1]),
    "ConvNeXt": OPEN_CLIP | {"vision_cfg": TIMM | {"timm_model_name": "test_convnext", "timm_pool": "avg"}},
}


def make_dual(image: dict) -> DualEncoder:
    torch.manual_seed(0)
    text = architectures.make_bert_config(64, 2, 12, 16)
    return DualEncoder({"dim": 16, "image": image, "text": text, "vocabulary": 20}).eval()


@pytest.mark.parametrize("name", TOWERS)
def test_the_vector_is_the_same_bits_and_the_shape_is_known_before(name: str) -> None:
    image, shape = TOWERS[name]
    dual = make_dual(image)
    side = 160 if "with [CLS]" in name else 224 if "timm" in name else SIZE_PX
    pixels = torch.randn(3, 3, side, side)
    with torch.no_grad():
        vector, tokens = dual.encode_image_tokens(pixels)
        assert torch.equal(vector, dual.encode_image(pixels))
    assert tokens.shape == (3, *shape)
    assert infer_token_shape(image) == shape


@pytest.mark.parametrize("name", NO_TOKENS)
def test_a_tower_without_tokens_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=rf"tokens of a transformer's last layer, and {name} has none; take"):
        infer_token_shape(NO_TOKENS[name])
    dual = make_dual(NO_TOKENS[name])
    with pytest.raises(UserError, match=rf"and {name} has none"):
        dual.encode_image_tokens(torch.randn(1, 3, 64, 64))
