"""FG-CLIP 2 (Xie et al. 2025) without its remote code: what retrieval needs of it is a SigLIP 2 of transformers.

Its text tower has two walks. `short`, up to 64 tokens: SigLIP 2's own positions and head. `long`, 196 tokens: of
the positions the first `keep_len` are `position_embedding_ori`, the others `position_embedding_res`, and the
head is `longtext_head`. So each walk is a SigLIP 2 whose positions and head are these. The heads for regions
stay behind. The layout was read in model/modeling_fgclip2.py, published with the weights, and in README_en.md of
github.com/360CVGroup/FG-CLIP (captions in lower case, how many patches a picture has).
"""

from pathlib import Path
from typing import Any

import torch

from tuwen.core.errors import UserError
from tuwen.model.state_dict import State

MODEL_TYPE = "fgclip2"
# so many patches at most, by the size of the picture: the first that its own patches do not exceed
PATCH_COUNTS = (128, 256, 576, 784, 1024)
KEEP_TOKENS, LONG_TOKENS = 20, 196  # of the long walk, where config.json has its defaults
TEXT_POSITIONS = "text_model.embeddings.position_embedding"
HEAD = "text_model.head"
REGION_PARTS = ("dense_feature_head.", "boxtext_head.")


def make_siglip2_config(content: dict[str, Any], max_tokens: int, path: Path) -> dict[str, Any]:
    """Return the config of SigLIP 2 for FG-CLIP 2's config.json, by the walk of `max_tokens`.

    Raises UserError where these are not the tokens of a walk.
    """
    text = dict(content.get("text_config", {}))
    short, long = text.get("max_position_embeddings", 64), text.pop("longtext_len", LONG_TOKENS)
    text.pop("keep_len", None)
    if max_tokens not in (short, long):
        raise UserError(
            f"params.yaml: text.max_tokens: FG-CLIP 2 ({path}) reads short captions in {short} tokens and long "
            f"ones in {long}, expected one of these, got {max_tokens}"
        )
    text |= {"max_position_embeddings": max_tokens, "model_type": "siglip2_text_model"}
    vision = content.get("vision_config", {}) | {"model_type": "siglip2_vision_model"}
    return {"model_type": "siglip2", "text_config": text, "vision_config": vision}


def convert_state(state: State, content: dict[str, Any], max_tokens: int) -> State:
    """Return FG-CLIP 2's tensors as SigLIP 2's, by the walk of `max_tokens`; what is missing stays missing."""
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(REGION_PARTS)}
    walks = {part: kept.pop(f"{TEXT_POSITIONS}_{part}.weight", None) for part in ("ori", "res")}
    head = {kind: kept.pop(f"longtext_head.{kind}", None) for kind in ("weight", "bias")}
    if max_tokens == content.get("text_config", {}).get("max_position_embeddings", 64):
        return kept
    keep = content.get("text_config", {}).get("keep_len", KEEP_TOKENS)
    for name in (f"{TEXT_POSITIONS}.weight", f"{HEAD}.weight", f"{HEAD}.bias"):
        kept.pop(name, None)
    if walks["ori"] is not None and walks["res"] is not None:
        kept[f"{TEXT_POSITIONS}.weight"] = torch.cat([walks["ori"][:keep], walks["res"][keep:]])
    kept |= {f"{HEAD}.{kind}": tensor for kind, tensor in head.items() if tensor is not None}
    return kept
