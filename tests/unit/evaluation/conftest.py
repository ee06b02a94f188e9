"""A small real model that knows the words of the prompts."""

from pathlib import Path

import pytest
import torch

from tests.support.training import COLOURS
from tuwen.data.formats import manifest
from tuwen.data.formats.text import build_vocabulary
from tuwen.evaluation.zero_shot import ENSEMBLE
from tuwen.model import dual_encoder

LABELS = ["动物和自然", "食物和饮料", "旅行和地点"]
CONFIG = {
    "dim": 16,
    "image": {"size_px": 16, "patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.0},
    "text": {"width": 64, "layers": 1, "dropout": 0.0, "max_tokens": 32},
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "m"
    vocabulary = build_vocabulary([*ENSEMBLE, *LABELS, *COLOURS])
    torch.manual_seed(0)
    dual_encoder.save_model(dual_encoder.DualEncoder(CONFIG | {"vocabulary": len(vocabulary)}), folder, vocabulary)
    manifest.write_manifest(folder, {}, {})
    return folder
