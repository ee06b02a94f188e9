"""Small Chinese-CLIPs with random weights, built and saved by the packages that publish them."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tuwen.core.compat import declare_torchvision_ops

declare_torchvision_ops()  # these import torchvision, which may need it first: hence E402

import cn_clip.clip  # noqa: E402
import open_clip  # noqa: E402
from cn_clip.clip.model import CLIP  # noqa: E402

__all__ = ["cn_clip", "open_clip"]  # to be imported from here, after torchvision can be

VOCABULARY = Path(cn_clip.clip.__file__).parent / "vocab.txt"
SIZE_PX, PATCH_PX, DIM, TOKENS = 32, 16, 48, 52
CAPTIONS = [
    "一只大熊猫坐在竹林里吃竹子",
    "红色的iPhone15手机壳，【包邮】防摔",
    "2024年夏季新款 女装连衣裙 café风",
    "他说：“左边是猫”，右边是狗",
    "《三体》刘慈欣著!@#￥%",
    "",
    "故宫的雪" * 30,  # longer than 52 tokens
]
TEXT = {
    "vocab_size": 21128,
    "text_attention_probs_dropout_prob": 0.1,
    "text_hidden_act": "gelu",
    "text_hidden_dropout_prob": 0.1,
    "text_hidden_size": 64,
    "text_initializer_range": 0.02,
    "text_intermediate_size": 256,
    "text_max_position_embeddings": 512,
    "text_num_attention_heads": 1,
    "text_num_hidden_layers": 2,
    "text_type_vocab_size": 2,
}
VIT = {"vision_layers": 2, "vision_width": 128, "vision_patch_size": PATCH_PX, "image_resolution": SIZE_PX}
RESNET = {
    "vision_layers": [1, 1, 2, 1],
    "vision_width": 16,
    "vision_patch_size": None,
    "image_resolution": SIZE_PX,
}


def draw_pictures() -> list[Image.Image]:
    """Draw waves and noise: upright, wide (not above 2:1) and grey pictures."""
    draw = np.random.default_rng(0)
    drawn = []
    for height, width in ((60, 90), (97, 64), (33, 66), (224, 224)):
        y, x = np.mgrid[:height, :width]
        waves = [127 + 100 * np.sin(x / (3 + c) + c) * np.cos(y / (5 - c)) for c in range(3)]
        noisy = np.stack(waves, -1) + draw.normal(0, 12, (height, width, 3))
        drawn.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    return [*drawn, drawn[0].convert("L").convert("RGB")]


def stir(model: torch.nn.Module) -> torch.nn.Module:
    """Draw every weight in trained size: no bias or norm stays as it begins, so a test sees it if one is lost."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                scale = 0.3 if "norm" in name.lower() or "bn" in name or tensor.ndim < 2 else 0.08
                tensor.add_(torch.randn(tensor.shape, generator=draw) * scale)
                if "running_var" in name:
                    tensor.abs_().add_(0.5)
                if "logit_scale" in name:
                    tensor.fill_(3.1)
    return model.eval()


def cn_clip_model(vision: dict[str, Any] | None = None) -> CLIP:
    """Build cn_clip's own CLIP in small."""
    torch.manual_seed(0)
    return stir(CLIP(embed_dim=DIM, **(vision or VIT), **TEXT))


def chinese_clip_folder(folder: Path) -> Any:
    """Save a ChineseCLIPModel with its processor by transformers, and return the model."""
    from transformers import (
        BertTokenizer,
        ChineseCLIPConfig,
        ChineseCLIPImageProcessor,
        ChineseCLIPModel,
        ChineseCLIPProcessor,
    )

    text = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    vision = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 160}
    config = ChineseCLIPConfig(
        text_config=text | {"vocab_size": 21128, "max_position_embeddings": 64},
        vision_config=vision | {"image_size": SIZE_PX, "patch_size": PATCH_PX, "layer_norm_eps": 1e-4},
        projection_dim=DIM,
    )
    torch.manual_seed(0)
    model = stir(ChineseCLIPModel(config))
    with torch.no_grad():
        model.text_model.embeddings.word_embeddings.weight[0] = 0  # as transformers leaves [PAD] when it loads
    model.save_pretrained(folder)
    square = {"height": SIZE_PX, "width": SIZE_PX}
    images = ChineseCLIPImageProcessor(size=square, do_center_crop=False)
    ChineseCLIPProcessor(images, BertTokenizer(vocab=str(VOCABULARY), do_lower_case=True)).save_pretrained(folder)
    return model


def sha256(path: Path) -> str:
    """Return what params.yaml pins a file by."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
