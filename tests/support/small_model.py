"""A small model folder with random weights, of the kind that needs torch and transformers alone."""

from pathlib import Path

import torch

from tuwen.data.formats.text import build_vocabulary
from tuwen.model import dual_encoder

CONFIG = {
    "dim": 16,
    "image": {
        **{"kind": "vit", "size_px": 16, "patch_px": 8, "width": 64, "layers": 1, "heads": 1, "mlp": 128},
        **{"activation": "quick_gelu", "eps": 1e-5, "patch_dropout": 0.0},
    },
    "text": {"width": 64, "layers": 1, "dropout": 0.0, "max_tokens": 12},
}


def write_small_model(folder: Path) -> Path:
    """Write the folder and return it; its vocabulary spells the captions of the tests."""
    vocabulary = build_vocabulary(["一只橘猫趴在窗台上", "一只大熊猫坐在竹林里吃竹子", "海边的日落"])
    torch.manual_seed(0)
    model = dual_encoder.DualEncoder(CONFIG | {"vocabulary": len(vocabulary)})
    dual_encoder.save_model(model, folder, vocabulary)
    return folder
