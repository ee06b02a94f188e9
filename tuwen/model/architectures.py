"""The published shapes of Chinese-CLIP by name (Yang et al. 2022, table 1; cn_clip's model_configs)."""

from typing import Any, NamedTuple

VOCABULARY_SIZE = 21128  # tokens of Google's Chinese BERT, which every Chinese RoBERTa of HFL shares
POSITIONS = 512


class Shape(NamedTuple):
    """What the published shapes differ in."""

    dim: int
    size_px: int
    patch_px: int  # 0: a ResNet
    image_width: int
    image_layers: Any  # a number; of a ResNet the blocks of its four stages
    text_width: int
    text_layers: int


SHAPES = {
    "ViT-B-16": Shape(512, 224, 16, 768, 12, 768, 12),
    "ViT-L-14": Shape(768, 224, 14, 1024, 24, 768, 12),
    "ViT-L-14-336": Shape(768, 336, 14, 1024, 24, 768, 12),
    "ViT-H-14": Shape(1024, 224, 14, 1280, 32, 1024, 24),
    "RN50": Shape(1024, 224, 0, 64, [3, 4, 6, 3], 768, 3),
}


def make_chinese_clip_config(name: str, max_tokens: int) -> dict[str, Any]:
    """Return the config of dual_encoder.py for one of SHAPES; texts are cut at `max_tokens`, 52 in the papers."""
    shape = SHAPES[name]
    if shape.patch_px:
        image = make_vit_config(shape.size_px, shape.patch_px, shape.image_width, shape.image_layers)
    else:
        image = make_resnet_config(shape.size_px, shape.image_width, shape.image_layers)
    text = make_bert_config(shape.text_width, shape.text_layers, max_tokens)
    return {"dim": shape.dim, "image": image, "text": text, "vocabulary": VOCABULARY_SIZE}


def make_vit_config(size_px: int, patch_px: int, width: int, layers: int) -> dict[str, Any]:
    """Return the config of CLIP's vision transformer as published: heads 64 wide, 80 at the width 1280 of H/14."""
    heads = width // (80 if width == 1280 else 64)
    shape = {"size_px": size_px, "patch_px": patch_px, "width": width, "layers": layers, "heads": heads}
    inside = {"mlp": 4 * width, "activation": "quick_gelu", "eps": 1e-5, "patch_dropout": 0.0}
    return {"kind": "vit", **shape, **inside}


def make_resnet_config(size_px: int, width: int, layers: list[int]) -> dict[str, Any]:
    """Return the config of CLIP's ResNet as published."""
    return {"kind": "resnet", "size_px": size_px, "width": width, "layers": layers, "heads": width * 32 // 64}


def make_bert_config(width: int, layers: int, max_tokens: int, positions: int = POSITIONS) -> dict[str, Any]:
    """Return the config of Chinese-CLIP's text tower as published: it takes [CLS], and trains with dropout 0.1."""
    shape = {"width": width, "layers": layers, "heads": width // 64, "mlp": 4 * width, "positions": positions}
    inside = {"activation": "gelu", "eps": 1e-12, "dropout": 0.1}
    return shape | inside | {"max_tokens": max_tokens, "pool": "first"}
