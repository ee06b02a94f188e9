"""An image tower of open_clip and a Chinese BERT, brought together by fresh projections.

As in the paper: CLIP's image encoder, HFL's Chinese RoBERTa (Cui et al. 2021), and two linear maps into one space,
which are drawn, as is the temperature.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuwen.core.compat import declare_torchvision_ops
from tuwen.core.errors import UserError
from tuwen.data.formats import pinned
from tuwen.data.formats.json_file import read_json_object
from tuwen.model import architectures, dual_encoder, state_dict, vocabulary_file
from tuwen.model.weights import cn_clip, hugging_face, pixel_config
from tuwen.model.weights.published import START_PLACE, Published

if TYPE_CHECKING:
    from tuwen.core.params import OpenClip

IMAGE_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
IMAGE_CONFIG = "open_clip_config.json"
BERT_FILES = ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json")
FRESH_LAYERS = ("image_tower.projection.weight", "text_projection.weight", "log_scale")
# keys of a vision_cfg that our own transformer (vit.py) has; with any other the tower is built by open_clip
VIT_KEYS = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
# the English text tower and the temperature stay behind, as do the projections
OPEN_CLIP_UNUSED = r"(?!visual\.).*|visual\.proj"
BERT_UNUSED = r"(bert\.)?(pooler\..*|embeddings\.position_ids)|cls\..*"


def read_weights(start: "OpenClip", max_tokens: int) -> Published:
    """Return both towers that `start` pins under projections and a temperature that are still to be drawn.

    Raises UserError where a file is missing or not the pinned one, or is not what `start` names.
    """
    image_path = pinned.find_pinned(
        f"{START_PLACE}.image_weights", start.image_weights, start.image_revision, IMAGE_WEIGHTS, [IMAGE_CONFIG]
    )
    text_path = pinned.find_pinned(
        f"{START_PLACE}.text", start.text, start.text_revision, pinned.HUB_WEIGHTS, BERT_FILES
    )
    text, size = _read_bert_config(text_path.parent, max_tokens)
    tokens = hugging_face.read_tokens(text_path.parent)
    vocabulary_file.check_tokens(tokens, hugging_face.find_token_file(text_path.parent), size)
    image = _make_image_config(start.image, image_path)
    config = {"dim": start.dim, "image": image, "text": text, "vocabulary": size}
    hugging_face.list_config_tensors(config, text_path.parent)
    state = _read_image_state(image_path, config) | _read_text_state(text_path)
    return Published(config, state, tokens, image_path, FRESH_LAYERS)


def _make_image_config(name: str, path: Path) -> dict[str, Any]:
    """Return the config of open_clip's tower `name`, whose weights are `path`."""
    shape = _find_shape(name)
    vision, beside = shape["vision_cfg"], path.parent / IMAGE_CONFIG
    stored = read_json_object(beside, hugging_face.REFETCH) if beside.is_file() else {}
    if stored.get("model_cfg", shape)["vision_cfg"] != vision:
        raise UserError(
            f"{beside}: is another tower than open_clip's {name!r}, which params.yaml: baseline.start.image "
            f"names; it has {stored['model_cfg']['vision_cfg']}"
        )
    clip = stored.get("preprocess_cfg", {})
    levels = {name: clip.get(name) for name in ("mean", "std")}
    pixel_config.check_pixel_levels(levels, beside, hugging_face.REFETCH)
    pixels = pixel_config.make_pixel_config(levels)
    quick, width = bool(shape.get("quick_gelu")), vision["width"]
    if not vision.keys() <= VIT_KEYS or not isinstance(vision["layers"], int):
        config = {"kind": "open_clip", "size_px": vision["image_size"], "embed_dim": shape["embed_dim"]}
        return config | {"quick_gelu": quick, "vision_cfg": vision} | pixels
    config = architectures.make_vit_config(vision["image_size"], vision["patch_size"], width, vision["layers"])
    config |= {"heads": width // vision.get("head_width", 64), "mlp": int(width * vision.get("mlp_ratio", 4.0))}
    return config | {"activation": "quick_gelu" if quick else "gelu"} | pixels


def _find_shape(name: str) -> dict[str, Any]:
    declare_torchvision_ops()
    try:
        import open_clip
    except ImportError:
        raise UserError(
            "params.yaml: baseline.start: open_clip's towers need open_clip: pip install 'tuwen[towers]'"
        ) from None
    shape: dict[str, Any] | None = open_clip.get_model_config(name)
    if shape is None or "vision_cfg" not in shape:
        alike = [other for other in open_clip.list_models() if other.startswith(name[:5])][:8]
        raise UserError(
            f"params.yaml: baseline.start.image: open_clip knows no {name!r}, but {', '.join(alike) or 'others'} …"
        )
    return shape


def _read_image_state(path: Path, config: dict[str, Any]) -> state_dict.State:
    """Return the tensors of the image tower under our names."""
    state = state_dict.read_state(path)
    if config["image"]["kind"] == "open_clip":
        kept = {name: tensor for name, tensor in state.items() if not re.fullmatch(OPEN_CLIP_UNUSED, name)}
        return {f"image_tower.tower.{name.removeprefix('visual.')}": tensor for name, tensor in kept.items()}
    names = [name for name in dual_encoder.list_tensors(config) if name.startswith("image_tower.")]
    # a ViT of cn_clip has kept open_clip's names
    counterparts = {name: cn_clip.find_counterpart(name) for name in names if name not in FRESH_LAYERS}
    return state_dict.convert_to_ours(state, counterparts, path, OPEN_CLIP_UNUSED)


def _read_bert_config(folder: Path, max_tokens: int) -> tuple[dict[str, Any], int]:
    """Return the config of the text tower, and its number of tokens."""
    from transformers import BertConfig

    kind = read_json_object(folder / "config.json", hugging_face.REFETCH).get("model_type")
    if kind != "bert":
        raise UserError(
            f"{folder / 'config.json'}: model_type: expected 'bert', which Chinese RoBERTa is too, got {kind!r}"
        )
    bert = BertConfig.from_pretrained(folder)
    return hugging_face.make_text_config(bert, max_tokens), bert.vocab_size


def _read_text_state(path: Path) -> state_dict.State:
    """Return the tensors of the text tower under our names; TensorFlow's old names of the norms are understood."""
    state = {}
    for name, tensor in state_dict.read_state(path).items():
        if not re.fullmatch(BERT_UNUSED, name):
            name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            state[f"text_tower.{name.removeprefix('bert.')}"] = tensor
    return state
