"""Small dual encoders of open_clip with drawn weights, as folders of its hub."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.support.library_models import make_gemma_tokenizer, make_xlm_tokenizer
from tests.support.weights import open_clip, sha256, stir
from tuwen.core import params

SIZE_PX = 32
VISION = {"image_size": SIZE_PX, "layers": 2, "width": 64, "patch_size": 16}
TEXT = {"context_length": 16, "width": 64, "heads": 2, "layers": 2}
TIMM = {
    **{"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "timm_pool": "map"},
    **{"timm_proj": "none", "image_size": 224},
}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
SIGLIP = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
CONFIGS: dict[str, dict[str, Any]] = {
    # as OpenAI's and LAION's: open_clip's own tokenizer
    "clip": {"model_cfg": {"embed_dim": 48, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}},
    # as ViT-H-14-worldwide (MetaCLIP 2)
    "worldwide": {
        "model_cfg": {
            "embed_dim": 48,
            "vision_cfg": VISION,
            "text_cfg": TEXT | {"hf_tokenizer_name": "facebook/xlm-v-base", "pool_type": "eos", "eos_id": 2},
        },
        "preprocess_cfg": HALF | {"interpolation": "bilinear", "resize_mode": "shortest"},
    },
    # as ViT-B-16-SigLIP2
    "siglip2": {
        "model_cfg": {
            "embed_dim": 192,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": TIMM,
            "text_cfg": TEXT
            | SIGLIP
            | {"hf_tokenizer_name": "timm/ViT-B-16-SigLIP2", "act_kwargs": {"approximate": "tanh"}}
            | {"tokenizer_kwargs": {"clean": "canonicalize"}},
        },
        "preprocess_cfg": HALF | {"interpolation": "bicubic", "resize_mode": "squash"},
    },
}
TOKENIZERS = {"clip": None, "worldwide": make_xlm_tokenizer, "siglip2": make_gemma_tokenizer}


def save_open_clip_model(name: str, folder: Path) -> None:
    """Save a model with drawn weights and its tokenizer as open_clip's hub folders are."""
    from safetensors.torch import save_file

    folder.mkdir()
    config = json.loads(json.dumps(CONFIGS[name]))
    if make := TOKENIZERS[name]:
        tokenizer = make()
        tokenizer.save_pretrained(folder)
        config["model_cfg"]["text_cfg"]["vocab_size"] = len(tokenizer)
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    model = dict(config["model_cfg"])
    build = open_clip.CustomTextCLIP if model.pop("custom_text", False) else open_clip.CLIP
    torch.manual_seed(0)
    state = stir(build(**model)).state_dict()
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / "open_clip_model.safetensors")


def pin_open_clip(folder: Path) -> params.OpenClipHub:
    """Return the start that names the model in a folder."""
    revision = sha256(folder / "open_clip_model.safetensors")
    return params.OpenClipHub(kind="open_clip_hub", model=str(folder), revision=revision)
