"""A picture tower of open_clip and a Chinese BERT, brought together by fresh projections.

As in the paper: CLIP's picture encoder, HFL's Chinese RoBERTa (Cui et al. 2021), and two linear maps into one
space that nobody has trained yet, nor the temperature.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuwen.core.compat import declare_torchvision_ops
from tuwen.core.errors import UserError
from tuwen.data.formats import pinned
from tuwen.data.formats.json_file import read_json_object
from tuwen.model import architectures, state_dict
from tuwen.model.weights import cn_clip, hugging_face

if TYPE_CHECKING:
    from tuwen.core.params import OpenClip

PICTURE_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
PICTURE_CONFIG = "open_clip_config.json"
TEXT_FILES = ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json")
# keys of a vision_cfg that our own transformer knows; any other makes the tower open_clip's
KNOWN = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
# the English text tower and the temperature go with the projections that are left behind
SPARE_PICTURE = r"(?!visual\.).*|visual\.proj"
SPARE_TEXT = r"(bert\.)?(pooler\..*|embeddings\.position_ids)|cls\..*"


def load(start: "OpenClip", max_tokens: int) -> tuple[dict[str, Any], state_dict.State, list[str]]:
    """(config, the state without the fresh layers, vocabulary). Raises UserError as load.py says."""
    place = "params.yaml: baseline.start"
    pictures = pinned.find_pinned(
        f"{place}.image_weights", start.image_weights, start.image_revision, PICTURE_WEIGHTS, [PICTURE_CONFIG]
    )
    texts = pinned.find_pinned(f"{place}.text", start.text, start.text_revision, hugging_face.WEIGHTS, TEXT_FILES)
    tower, image = _picture(start.image, pictures)
    folder = texts.parent
    bert, tokens = _bert(folder, max_tokens)
    config = {"dim": start.dim, "image": image, "text": bert, "vocabulary": tokens}
    return config, tower | _texts(texts), hugging_face.vocabulary(folder)


def _picture(name: str, weights: Path) -> tuple[state_dict.State, dict[str, Any]]:
    """The tensors of the tower under our names, and its config."""
    shape = _shape(name)
    vision = shape["vision_cfg"]
    beside = weights.parent / PICTURE_CONFIG
    told = read_json_object(beside, hugging_face.REFETCH) if beside.is_file() else {}
    if told.get("model_cfg", shape)["vision_cfg"] != vision:
        raise UserError(
            f"{beside}: is another tower than open_clip's {name!r}, which params.yaml: baseline.start.image "
            f"names; it has {told['model_cfg']['vision_cfg']}"
        )
    clip = told.get("preprocess_cfg", {})
    pixels = hugging_face.normal({name: clip.get(name) for name in ("mean", "std")})
    quick = bool(shape.get("quick_gelu"))
    state = state_dict.read(weights)
    if not vision.keys() <= KNOWN or not isinstance(vision["layers"], int):
        size = vision["image_size"]
        config = {"kind": "open_clip", "size_px": size, "embed_dim": shape["embed_dim"], "quick_gelu": quick}
        kept = {name: tensor for name, tensor in state.items() if not re.fullmatch(SPARE_PICTURE, name)}
        theirs = {f"image_tower.tower.{name.removeprefix('visual.')}": kept[name] for name in kept}
        return theirs, config | {"vision_cfg": vision} | pixels
    config = architectures.make_vit_config(
        vision["image_size"], vision["patch_size"], vision["width"], vision["layers"]
    )
    config |= {"heads": vision["width"] // vision.get("head_width", 64)}
    config |= {"mlp": int(vision["width"] * vision.get("mlp_ratio", 4.0))}
    config |= {"activation": "quick_gelu" if quick else "gelu"}
    names = [f"image_tower.{name}" for name in vit_names(config) if name != "projection.weight"]
    links = {name: cn_clip.link(name) for name in names}  # whose names open_clip has kept
    return state_dict.to_ours(state, links, str(weights), SPARE_PICTURE), config | pixels


def vit_names(config: dict[str, Any]) -> list[str]:
    """Names of the tensors of vit.py."""
    import torch

    from tuwen.model.vit import VisionTransformer

    with torch.device("meta"):
        return list(VisionTransformer(config, 1).state_dict())


def _shape(name: str) -> dict[str, Any]:
    declare_torchvision_ops()
    try:
        import open_clip
    except ImportError:
        raise UserError(
            "params.yaml: baseline.start: open_clip's towers need open_clip: pip install 'tuwen[towers]'"
        ) from None
    shape = open_clip.get_model_config(name)
    if shape is None or "vision_cfg" not in shape:
        alike = [known for known in open_clip.list_models() if known.startswith(name[:5])][:8]
        raise UserError(
            f"params.yaml: baseline.start.image: open_clip knows no {name!r}, but {', '.join(alike) or 'others'} …"
        )
    found: dict[str, Any] = shape
    return found


def _bert(folder: Path, max_tokens: int) -> tuple[dict[str, Any], int]:
    from transformers import BertConfig

    found = read_json_object(folder / "config.json", hugging_face.REFETCH)
    if found.get("model_type") != "bert":
        raise UserError(
            f"{folder / 'config.json'}: model_type: expected 'bert', which Chinese RoBERTa is too, got "
            f"{found.get('model_type')!r}"
        )
    shape = BertConfig.from_pretrained(folder)
    return hugging_face.bert(shape, max_tokens), shape.vocab_size


def _texts(weights: Path) -> state_dict.State:
    """The tensors of the text tower under our names; TensorFlow's old names of the norms are understood."""
    named = {}
    for name, tensor in state_dict.read(weights).items():
        if not re.fullmatch(SPARE_TEXT, name):
            name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            named[f"text_tower.{name.removeprefix('bert.')}"] = tensor
    return named
