"""A small FG-CLIP 2 with drawn weights: SigLIP 2's layers, and those of its own beside them."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from tests.support.library_models import PATCH_PX, save_library_model
from tests.support.weights import stir

LONG, KEEP = 24, 5  # tokens of the long walk
EXTRA = "text_model.embeddings.position_embedding"


def save_fg_clip(folder: Path) -> tuple[Any, Any, nn.Module]:
    """Save FG-CLIP 2 in small; return SigLIP 2 of its common layers, its processor, and the layers of its own."""
    from safetensors.torch import load_file, save_file

    model, processor = save_library_model("siglip2", folder)
    own = nn.ModuleDict(
        {
            "ori": nn.Embedding(LONG, 32),
            "res": nn.Embedding(LONG, 32),
            "longtext_head": nn.Linear(32, 32),
            "boxtext_head": nn.Linear(32, 32),
        }
    )
    stir(own)
    names = {"ori.weight": f"{EXTRA}_ori.weight", "res.weight": f"{EXTRA}_res.weight"}
    state = load_file(folder / "model.safetensors")
    state |= {names.get(name, name): tensor for name, tensor in own.state_dict().items()}
    state |= {"dense_feature_head.probe": torch.randn(1, 1, 32)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "fgclip2", "auto_map": {"AutoModelForCausalLM": "modeling_fgclip2.Fgclip2Model"}}
    config["text_config"] |= {"model_type": "fgclip2_text_model", "longtext_len": LONG, "keep_len": KEEP}
    config["vision_config"] |= {"model_type": "fgclip2_vision_model"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return model, processor, own


def choose_patches(picture: Image.Image) -> int:
    """Return how many patches the published code allows a picture."""
    patches = (picture.width // PATCH_PX) * (picture.height // PATCH_PX)
    return next(count for count in (128, 256, 576, 784, 1024) if patches <= count)
