"""The PyPI package cn_clip's `.pt` files: shape and keys, in and out. Its pictures' towers are open_clip's too."""

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import torch

from tuwen.core.errors import UserError
from tuwen.model import architectures, state_dict
from tuwen.model.state_dict import Link, State

# of the 21,128 lines of its clip/vocab.txt, which are those of Google's Chinese BERT
VOCABULARY_SHA256 = "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c"
SPARE = r"bert\.pooler\..*|bert\.embeddings\.position_ids"
PICTURE_NAMES = {"patches.weight": "conv1.weight", "position_embedding": "positional_embedding"}
HAND_NAMES = {"norm_pre": "ln_pre", "norm_post": "ln_post"}
BLOCK_NAMES = {"out": "attn.out_proj", "norm1": "ln_1", "norm2": "ln_2", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}


def link(name: str) -> Link:
    """Where our tensor `name` stands in cn_clip's CLIP; a tower of kind `resnet` has its names."""
    tower, _, inner = name.partition(".")
    if tower == "text_tower":
        return Link((f"bert.{inner}",))
    if tower != "image_tower":
        return Link(("text_projection",), turned=True) if tower == "text_projection" else Link(("logit_scale",))
    if inner == "projection.weight":
        return Link(("visual.proj",), turned=True)
    if found := re.fullmatch(r"layer\.(\d+)\.(\w+)\.(weight|bias)", inner):
        number, part, kind = found.groups()
        theirs = f"attn.in_proj_{kind}" if part == "qkv" else f"{BLOCK_NAMES[part]}.{kind}"
        return Link((f"visual.transformer.resblocks.{number}.{theirs}",))
    part, dot, kind = inner.partition(".")
    return Link((f"visual.{PICTURE_NAMES.get(inner, HAND_NAMES.get(part, part) + dot + kind)}",))


def config(state: State, max_tokens: int, where: Path) -> dict[str, Any]:
    """The config of dual_encoder.py that the shapes tell. Raises UserError where they are not cn_clip's."""
    try:
        picture, dim = _picture(state)
        tokens, width = state["bert.embeddings.word_embeddings.weight"].shape
        positions = len(state["bert.embeddings.position_embeddings.weight"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{where}: expected the tensors of a Chinese-CLIP of cn_clip (visual.…, bert.…), there is no {error}"
        ) from None
    text = architectures.make_bert_config(
        width, _count(state, r"bert\.encoder\.layer\.(\d+)\..*"), max_tokens, positions
    )
    return {"dim": dim, "image": picture, "text": text, "vocabulary": tokens}


def _picture(state: State) -> tuple[dict[str, Any], int]:
    if "visual.proj" in state:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        side = math.isqrt(len(state["visual.positional_embedding"]) - 1)
        layers = _count(state, r"visual\.transformer\.resblocks\.(\d+)\..*")
        return architectures.make_vit_config(side * patch, patch, width, layers), state["visual.proj"].shape[1]
    side = math.isqrt(len(state["visual.attnpool.positional_embedding"]) - 1)
    depths = [_count(state, rf"visual\.layer{stage}\.(\d+)\..*") for stage in range(1, 5)]
    width, dim = len(state["visual.conv3.weight"]), len(state["visual.attnpool.c_proj.weight"])
    return architectures.make_resnet_config(32 * side, width, depths), dim


def _count(state: State, pattern: str) -> int:
    return 1 + max((int(found[1]) for name in state if (found := re.fullmatch(pattern, name))), default=-1)


def vocabulary(path: Path) -> list[str]:
    """The tokens of cn_clip. Raises UserError where the file is missing or holds others."""
    where = "it is clip/vocab.txt in the PyPI package cn_clip, and vocab.txt of hfl/chinese-roberta-wwm-ext"
    try:
        tokens = [line.rstrip("\r") for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
    except FileNotFoundError:
        raise UserError(f"{path}: missing; expected cn_clip's vocabulary: {where}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a vocabulary ({error}): {where}") from None
    if hashlib.sha256("".join(f"{token}\n" for token in tokens).encode()).hexdigest() != VOCABULARY_SHA256:
        raise UserError(f"{path}: {len(tokens)} tokens, but not those of cn_clip, so ids would be wrong; {where}")
    return tokens


def load(state: State, names: list[str], where: Path) -> State:
    """cn_clip's tensors under our names, which are `names`."""
    return state_dict.to_ours(state, {name: link(name) for name in names}, str(where), SPARE)


def fixed(config: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What cn_clip's code has as constants: setting -> (what this model has, what it must be)."""
    image, text = config["image"], config["text"]
    must = {"tokens": (config["vocabulary"], architectures.VOCABULARY), "pixels": (image.get("mean"), None)}
    if image["kind"] == "vit":
        plain = architectures.make_vit_config(image["size_px"], image["patch_px"], image["width"], image["layers"])
        must |= {name: (image[name], plain[name]) for name in ("heads", "mlp", "activation", "eps")}
    bert = architectures.make_bert_config(text["width"], text["layers"], text["max_tokens"])
    return must | {f"text {name}": (text[name], bert[name]) for name in ("heads", "mlp", "activation", "eps")}


def write(state: State, out: Path) -> None:
    """Write a `.pt` that cn_clip loads and goes on training from, with the prefix of its parallel training."""
    theirs = state_dict.to_theirs(state, {name: link(name) for name in state})
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in theirs.items()}}, out)
