"""Hugging Face's ChineseCLIPModel folders: config, keys, vocabulary and preprocessor, in and out."""

import re
from pathlib import Path
from typing import Any

from tuwen.core.compat import declare_torchvision_ops
from tuwen.core.errors import UserError
from tuwen.data.formats import images
from tuwen.data.formats.json_file import read_json_object, write_json
from tuwen.model import state_dict
from tuwen.model.state_dict import Link

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PREPROCESSOR = "preprocessor_config.json"
REFETCH = "fetch the whole folder again"
FILES = (
    "config.json",
    PREPROCESSOR,
    "processor_config.json",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
)
# buffers that older releases wrote, and a pooler that the model does not use
SPARE = r"(text|vision)_model\.embeddings\.(position_ids|token_type_ids)|text_model\.pooler\..*"
PICTURE_NAMES = {
    "patches.weight": "vision_model.embeddings.patch_embedding.weight",
    "class_embedding": "vision_model.embeddings.class_embedding",
    "position_embedding": "vision_model.embeddings.position_embedding.weight",
    "projection.weight": "visual_projection.weight",
}
BLOCK_NAMES = {"out": "self_attn.out_proj", "norm1": "layer_norm1", "norm2": "layer_norm2"}
BLOCK_NAMES |= {"fc1": "mlp.fc1", "fc2": "mlp.fc2"}
HAND_NAMES = {"norm_pre": "pre_layrnorm", "norm_post": "post_layernorm"}
# their config's keys and ours
VISION_KEYS = {
    "image_size": "size_px",
    "patch_size": "patch_px",
    "hidden_size": "width",
    "hidden_act": "activation",
}
VISION_KEYS |= {"num_hidden_layers": "layers", "num_attention_heads": "heads", "intermediate_size": "mlp"}
VISION_KEYS |= {"layer_norm_eps": "eps"}
TEXT_KEYS = {"hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads"}
TEXT_KEYS |= {"intermediate_size": "mlp", "layer_norm_eps": "eps", "hidden_act": "activation"}
TEXT_KEYS |= {"max_position_embeddings": "positions", "hidden_dropout_prob": "dropout"}
OTHERS = {"text_projection.weight": "text_projection.weight", "log_scale": "logit_scale"}


def link(name: str) -> Link:
    """Where our tensor `name` stands in a ChineseCLIPModel."""
    tower, _, inner = name.partition(".")
    if tower == "text_tower":
        return Link((f"text_model.{inner}",))
    if tower != "image_tower":
        return Link((OTHERS[name],))
    if inner in PICTURE_NAMES:
        return Link((PICTURE_NAMES[inner],))
    if found := re.fullmatch(r"layer\.(\d+)\.(\w+)\.(weight|bias)", inner):
        number, part, kind = found.groups()
        parts = [f"self_attn.{one}_proj" for one in "qkv"] if part == "qkv" else [BLOCK_NAMES[part]]
        return Link(tuple(f"vision_model.encoder.layers.{number}.{one}.{kind}" for one in parts))
    part, _, kind = inner.partition(".")
    return Link((f"vision_model.{HAND_NAMES[part]}.{kind}",))


def config(folder: Path, max_tokens: int) -> dict[str, Any]:
    """The config of dual_encoder.py for the model in `folder`.

    Raises UserError where it is no ChineseCLIPModel, or its preprocessor does what ours cannot.
    """
    declare_torchvision_ops()
    from transformers import ChineseCLIPConfig

    kind = read_json_object(folder / "config.json", REFETCH).get("model_type")
    if kind != "chinese_clip":
        raise UserError(f"{folder / 'config.json'}: model_type: expected 'chinese_clip', got {kind!r}")
    try:
        whole = ChineseCLIPConfig.from_pretrained(folder)
    except Exception as error:  # it validates with exceptions of its own
        reason = str(error).strip().replace("\n", " ")[:300]
        raise UserError(f"{folder / 'config.json'}: no ChineseCLIPConfig: {reason}") from None
    vision, text = whole.vision_config, whole.text_config
    if vision.hidden_act not in ("quick_gelu", "gelu"):
        place = f"{folder / 'config.json'}: vision_config.hidden_act"
        raise UserError(f"{place}: expected quick_gelu or gelu, got {vision.hidden_act!r}")
    picture = {ours: getattr(vision, name) for name, ours in VISION_KEYS.items()}
    return {
        "dim": whole.projection_dim,
        "image": {"kind": "vit", "patch_dropout": 0.0, **picture, **_pixels(folder, vision.image_size)},
        "text": bert(text, max_tokens),
        "vocabulary": text.vocab_size,
    }


def bert(text: Any, max_tokens: int) -> dict[str, Any]:
    """What towers.py must know of a BertConfig, or of Chinese-CLIP's like it; [CLS] is what counts."""
    shape = {ours: getattr(text, name) for name, ours in TEXT_KEYS.items()}
    return shape | {"max_tokens": max_tokens, "pool": "first"}


def _pixels(folder: Path, size_px: int) -> dict[str, Any]:
    """Mean and deviation where they are not CLIP's; a way to crop that is not ours is said."""
    path, found = folder / PREPROCESSOR, None
    if not path.is_file() and (whole := folder / "processor_config.json").is_file():  # as transformers 5 writes it
        path, found = whole, read_json_object(whole, REFETCH).get("image_processor")
    found = found or read_json_object(path, REFETCH)
    size = found.get("size", size_px)
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    if size != size_px:
        raise UserError(f"{path}: size: expected {size_px} px, as config.json says, got {found['size']}")
    # the class crops unless the file says otherwise
    if found.get("do_center_crop", True):
        print(f"{path}: crops its pictures to a square; here they are squashed to it, as Chinese-CLIP was trained")
    return normal({name: found.get(f"image_{name}") for name in ("mean", "std")})


def normal(found: dict[str, Any]) -> dict[str, Any]:
    """`mean` and `std` (0..1) as dual_encoder.py takes them: nothing where they are CLIP's or not said."""
    clip = {name: [value / 255 for value in values] for name, values in images.CLIP_PIXELS.items()}
    said = {name: list(values) if values else clip[name] for name, values in found.items()}
    same = all(abs(a - b) < 1e-6 for name, values in said.items() for a, b in zip(values, clip[name], strict=True))
    return {} if same else said


def vocabulary(folder: Path) -> list[str]:
    """The tokens in the order of their ids, from vocab.txt or from a WordPiece tokenizer.json.

    Raises UserError where neither is there, or the tokenizer keeps capitals apart.
    """
    told = folder / "tokenizer_config.json"
    if told.is_file() and read_json_object(told, REFETCH).get("do_lower_case") is False:
        raise UserError(f"{told}: do_lower_case: expected true, got false; texts are lower-cased here")
    if (plain := folder / "vocab.txt").is_file():
        return plain.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if (packed := folder / "tokenizer.json").is_file():
        ids: dict[str, int] = read_json_object(packed, REFETCH).get("model", {}).get("vocab", {})
        if ids and sorted(ids.values()) == list(range(len(ids))):
            return sorted(ids, key=ids.__getitem__)
    raise UserError(f"{plain}: missing; expected the tokens of the model, one a line, beside its weights")


def load(weights: Path, names: list[str]) -> state_dict.State:
    """The tensors of the file `weights` under our names, which are `names`."""
    links = {name: link(name) for name in names}
    return state_dict.to_ours(state_dict.read(weights), links, str(weights), SPARE)


def write(config: dict[str, Any], state: state_dict.State, tokens: list[str], out: Path) -> None:
    """Write a folder that `ChineseCLIPModel.from_pretrained` and `ChineseCLIPProcessor` read."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    image, text = config["image"], config["text"]
    whole = their_config(config)
    whole.architectures = ["ChineseCLIPModel"]
    whole.save_pretrained(out)
    told = {"do_lower_case": True, "tokenizer_class": "BertTokenizer", "model_max_length": text["max_tokens"]}
    for name, body in ((PREPROCESSOR, _preprocessor(image)), ("tokenizer_config.json", told)):
        write_json(out / name, body, sort_keys=True)
    (out / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    theirs = state_dict.to_theirs(state, {name: link(name) for name in state})
    save_file(theirs, out / "model.safetensors", metadata={"format": "pt"})


def their_config(config: dict[str, Any]) -> Any:
    """The ChineseCLIPConfig of our config."""
    declare_torchvision_ops()
    from transformers import ChineseCLIPConfig

    image, text = config["image"], config["text"]
    return ChineseCLIPConfig(
        vision_config={name: image[ours] for name, ours in VISION_KEYS.items()}
        | {"projection_dim": config["dim"]},
        text_config={name: text[ours] for name, ours in TEXT_KEYS.items()} | {"vocab_size": config["vocabulary"]},
        projection_dim=config["dim"],
    )


def _preprocessor(image: dict[str, Any]) -> dict[str, Any]:
    clip = {name: [value / 255 for value in values] for name, values in images.CLIP_PIXELS.items()}
    pixels = {f"image_{name}": image.get(name, clip[name]) for name in ("mean", "std")}
    steps = {f"do_{name}": True for name in ("resize", "rescale", "normalize", "convert_rgb")}
    square = {"size": {"height": image["size_px"], "width": image["size_px"]}, "do_center_crop": False}
    told = {"resample": 3, "rescale_factor": 1 / 255, "image_processor_type": "ChineseCLIPImageProcessor"}
    return pixels | steps | square | told
