"""The `.pt` files of the PyPI package cn_clip, in and out. open_clip's ViTs have the same tensor names."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuwen.core.errors import UserError
from tuwen.data.formats import pinned
from tuwen.model import architectures, dual_encoder, state_dict, vocabulary_file
from tuwen.model.state_dict import Counterpart, State
from tuwen.model.weights.published import START_PLACE, Published

if TYPE_CHECKING:
    from tuwen.core.params import CnClip

CN_CLIP_UNUSED = r"bert\.pooler\..*|bert\.embeddings\.position_ids"
# our names -> cn_clip's
CN_CLIP_IMAGE_NAMES = {"patches.weight": "conv1.weight", "position_embedding": "positional_embedding"}
CN_CLIP_NORM_NAMES = {"norm_pre": "ln_pre", "norm_post": "ln_post"}
CN_CLIP_BLOCK_NAMES = {"out": "attn.out_proj", "norm1": "ln_1", "norm2": "ln_2"}
CN_CLIP_BLOCK_NAMES |= {"fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}


def read_weights(start: "CnClip", max_tokens: int) -> Published:
    """Return cn_clip's model in the file that `start` pins.

    Raises UserError where a file is missing or not the pinned one, or is no Chinese-CLIP of cn_clip.
    """
    path = pinned.find_pinned(f"{START_PLACE}.file", start.file, start.sha256, (), ())
    tokens = _read_tokens(Path(start.vocabulary))
    state = state_dict.read_state(path)
    config = infer_config(state, max_tokens, path)
    counterparts = {name: find_counterpart(name) for name in dual_encoder.list_tensors(config)}
    ours = state_dict.convert_to_ours(state, counterparts, path, CN_CLIP_UNUSED)
    return Published(config, ours, tokens, path)


def find_counterpart(name: str) -> Counterpart:
    """Return where our tensor `name` stands in cn_clip's CLIP; the names inside a ResNet are its own."""
    tower, _, inner = name.partition(".")
    if tower == "text_tower":
        return Counterpart((f"bert.{inner}",))
    if tower == "text_projection":
        return Counterpart(("text_projection",), transposed=True)
    if tower != "image_tower":
        return Counterpart(("logit_scale",))
    if inner == "projection.weight":
        return Counterpart(("visual.proj",), transposed=True)
    if match := re.fullmatch(r"layer\.(\d+)\.(\w+)\.(weight|bias)", inner):
        number, part, kind = match.groups()
        theirs = f"attn.in_proj_{kind}" if part == "qkv" else f"{CN_CLIP_BLOCK_NAMES[part]}.{kind}"
        return Counterpart((f"visual.transformer.resblocks.{number}.{theirs}",))
    part, dot, kind = inner.partition(".")
    theirs = CN_CLIP_IMAGE_NAMES.get(inner, CN_CLIP_NORM_NAMES.get(part, part) + dot + kind)
    return Counterpart((f"visual.{theirs}",))


def infer_config(state: State, max_tokens: int, path: Path) -> dict[str, Any]:
    """Return the config of dual_encoder.py for cn_clip's tensors in `path`, by their shapes.

    Raises UserError where they are not cn_clip's.
    """
    try:
        image, dim = _infer_image_config(state)
        tokens, width = state["bert.embeddings.word_embeddings.weight"].shape
        positions = len(state["bert.embeddings.position_embeddings.weight"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path}: expected the tensors of a Chinese-CLIP of cn_clip (visual.…, bert.…), there is no {error}; "
            f"it has {', '.join(list(state)[:4])}, …: name the kind that wrote it in {START_PLACE}.kind"
        ) from None
    layers = _count_layers(state, r"bert\.encoder\.layer\.(\d+)\..*")
    text = architectures.make_bert_config(width, layers, max_tokens, positions)
    return {"dim": dim, "image": image, "text": text, "vocabulary": tokens}


def _infer_image_config(state: State) -> tuple[dict[str, Any], int]:
    """Return the config of the image tower, and the dimensions of the common space."""
    if "visual.proj" in state:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        side = math.isqrt(len(state["visual.positional_embedding"]) - 1)
        layers = _count_layers(state, r"visual\.transformer\.resblocks\.(\d+)\..*")
        return architectures.make_vit_config(side * patch, patch, width, layers), state["visual.proj"].shape[1]
    side = math.isqrt(len(state["visual.attnpool.positional_embedding"]) - 1)
    depths = [_count_layers(state, rf"visual\.layer{stage}\.(\d+)\..*") for stage in range(1, 5)]
    width, dim = len(state["visual.conv3.weight"]), len(state["visual.attnpool.c_proj.weight"])
    return architectures.make_resnet_config(32 * side, width, depths), dim


def _count_layers(state: State, pattern: str) -> int:
    return 1 + max((int(match[1]) for name in state if (match := re.fullmatch(pattern, name))), default=-1)


def _read_tokens(path: Path) -> list[str]:
    """Return cn_clip's tokens. Raises UserError where the file is missing or holds others."""
    where = "it is clip/vocab.txt in the PyPI package cn_clip, and vocab.txt of hfl/chinese-roberta-wwm-ext"
    tokens = vocabulary_file.read_token_lines(path, where)
    if vocabulary_file.digest_tokens(tokens) != vocabulary_file.CHINESE_BERT_SHA256:
        fault = vocabulary_file.find_token_fault(tokens, architectures.VOCABULARY_SIZE) or "some differ"
        raise UserError(
            f"{path}: {len(tokens)} tokens, but not those of cn_clip, so ids would be wrong ({fault}); {where}"
        )
    return tokens


def list_fixed_settings(config: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what cn_clip's code has as constants: setting -> (what this model has, what it must be)."""
    image, text = config["image"], config["text"]
    must = {"tokens": (config["vocabulary"], architectures.VOCABULARY_SIZE), "pixels": (image.get("mean"), None)}
    if image["kind"] == "vit":
        plain = architectures.make_vit_config(image["size_px"], image["patch_px"], image["width"], image["layers"])
        must |= {name: (image[name], plain[name]) for name in ("heads", "mlp", "activation", "eps")}
    bert = architectures.make_bert_config(text["width"], text["layers"], text["max_tokens"])
    return must | {f"text {name}": (text[name], bert[name]) for name in ("heads", "mlp", "activation", "eps")}


def write_checkpoint(state: State, out: Path) -> None:
    """Write our tensors as a `.pt` that cn_clip loads and trains on, with the prefix of its parallel training."""
    theirs = state_dict.convert_to_theirs(state, {name: find_counterpart(name) for name in state})
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in theirs.items()}}, out)
