"""Folders of Hugging Face's ChineseCLIPModel, in and out: config, tensors, vocabulary and preprocessor."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuwen.core.compat import declare_torchvision_ops
from tuwen.core.errors import UserError
from tuwen.data.formats import images, pinned
from tuwen.data.formats.json_file import read_json_object, write_json
from tuwen.data.formats.text import SPECIAL_TOKENS, load_tokenizer
from tuwen.data.formats.tokens import spelling
from tuwen.model import dual_encoder, state_dict, vocabulary_file
from tuwen.model.state_dict import Counterpart
from tuwen.model.weights import pixel_config
from tuwen.model.weights.published import START_PLACE, Published

if TYPE_CHECKING:
    from tuwen.core.params import HuggingFace

PREPROCESSOR_FILE = "preprocessor_config.json"
REFETCH = "fetch the whole folder again"
HUB_FILES = (
    "config.json",
    PREPROCESSOR_FILE,
    "processor_config.json",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
)
# buffers that older releases wrote, and a pooler that the model does not use
HF_UNUSED = r"(text|vision)_model\.embeddings\.(position_ids|token_type_ids)|text_model\.pooler\..*"
# our names -> theirs
HF_IMAGE_NAMES = {
    "patches.weight": "vision_model.embeddings.patch_embedding.weight",
    "class_embedding": "vision_model.embeddings.class_embedding",
    "position_embedding": "vision_model.embeddings.position_embedding.weight",
    "projection.weight": "visual_projection.weight",
}
HF_BLOCK_NAMES = {"out": "self_attn.out_proj", "norm1": "layer_norm1", "norm2": "layer_norm2"}
HF_BLOCK_NAMES |= {"fc1": "mlp.fc1", "fc2": "mlp.fc2"}
HF_NORM_NAMES = {"norm_pre": "pre_layrnorm", "norm_post": "post_layernorm"}
HF_OTHER_NAMES = {"text_projection.weight": "text_projection.weight", "log_scale": "logit_scale"}
# keys of their configs -> ours
VISION_KEYS = {
    "image_size": "size_px",
    "patch_size": "patch_px",
    "hidden_size": "width",
    "hidden_act": "activation",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp",
    "layer_norm_eps": "eps",
}
TEXT_KEYS = {
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp",
    "layer_norm_eps": "eps",
    "hidden_act": "activation",
    "max_position_embeddings": "positions",
    "hidden_dropout_prob": "dropout",
}


def read_weights(start: "HuggingFace", max_tokens: int) -> Published:
    """Return the ChineseCLIPModel that `start` pins.

    Raises UserError where a file is missing or not the pinned one, or is not what a ChineseCLIPModel has.
    """
    path = pinned.find_pinned(f"{START_PLACE}.model", start.model, start.revision, pinned.HUB_WEIGHTS, HUB_FILES)
    config, tokens = read_config(path.parent, max_tokens), read_tokens(path.parent)
    vocabulary_file.check_tokens(tokens, find_token_file(path.parent), config["vocabulary"])
    counterparts = {name: find_counterpart(name) for name in list_config_tensors(config, path.parent)}
    state = state_dict.convert_to_ours(state_dict.read_state(path), counterparts, path, HF_UNUSED)
    return Published(config, state, tokens, path)


def list_config_tensors(config: dict[str, Any], folder: Path) -> list[str]:
    """Return our names of a model of `config`. Raises UserError where that of `folder` builds none."""
    try:
        return dual_encoder.list_tensors(config)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError, AssertionError) as error:
        why = f"no layers can be built by it ({str(error)[:200]})"
        raise UserError(f"{folder / 'config.json'}: {why}; {REFETCH}") from None


def find_counterpart(name: str) -> Counterpart:
    """Return where our tensor `name` stands in a ChineseCLIPModel."""
    tower, _, inner = name.partition(".")
    if tower == "text_tower":
        return Counterpart((f"text_model.{inner}",))
    if tower != "image_tower":
        return Counterpart((HF_OTHER_NAMES[name],))
    if inner in HF_IMAGE_NAMES:
        return Counterpart((HF_IMAGE_NAMES[inner],))
    if match := re.fullmatch(r"layer\.(\d+)\.(\w+)\.(weight|bias)", inner):
        number, part, kind = match.groups()
        parts = [f"self_attn.{one}_proj" for one in "qkv"] if part == "qkv" else [HF_BLOCK_NAMES[part]]
        return Counterpart(tuple(f"vision_model.encoder.layers.{number}.{one}.{kind}" for one in parts))
    part, _, kind = inner.partition(".")
    return Counterpart((f"vision_model.{HF_NORM_NAMES[part]}.{kind}",))


def read_config(folder: Path, max_tokens: int) -> dict[str, Any]:
    """Return the config of dual_encoder.py for the model in `folder`.

    Raises UserError where it is no ChineseCLIPModel, or its preprocessor does what ours cannot.
    """
    declare_torchvision_ops()
    from transformers import ChineseCLIPConfig

    kind = read_json_object(folder / "config.json", REFETCH).get("model_type")
    if kind != "chinese_clip":
        raise UserError(f"{folder / 'config.json'}: model_type: expected 'chinese_clip', got {kind!r}")
    try:
        theirs = ChineseCLIPConfig.from_pretrained(folder)
    except Exception as error:  # it validates with exceptions of its own
        reason = str(error).strip().replace("\n", " ")[:300]
        raise UserError(f"{folder / 'config.json'}: no ChineseCLIPConfig: {reason}") from None
    vision, text = theirs.vision_config, theirs.text_config
    if vision.hidden_act not in ("quick_gelu", "gelu"):
        place = f"{folder / 'config.json'}: vision_config.hidden_act"
        raise UserError(f"{place}: expected quick_gelu or gelu, got {vision.hidden_act!r}")
    shape = {ours: getattr(vision, name) for name, ours in VISION_KEYS.items()}
    return {
        "dim": theirs.projection_dim,
        "image": {"kind": "vit", "patch_dropout": 0.0, **shape, **_read_pixel_config(folder, vision.image_size)},
        "text": make_text_config(text, max_tokens),
        "vocabulary": text.vocab_size,
    }


def make_text_config(bert: Any, max_tokens: int) -> dict[str, Any]:
    """Return the config of the text tower for transformers' config of a BERT; [CLS] stands for the text."""
    shape = {ours: getattr(bert, name) for name, ours in TEXT_KEYS.items()}
    return shape | {"max_tokens": max_tokens, "pool": "first"}


def _read_pixel_config(folder: Path, size_px: int) -> dict[str, Any]:
    """Return mean and deviation where they are not CLIP's; print it where they crop and we squash."""
    path, content = folder / PREPROCESSOR_FILE, None
    if not path.is_file() and (whole := folder / "processor_config.json").is_file():  # as transformers 5 writes it
        path, content = whole, read_json_object(whole, REFETCH).get("image_processor")
    content = content or read_json_object(path, REFETCH)
    size = content.get("size", size_px)
    if (set(size.values()) - {None} if isinstance(size, dict) else {size}) != {size_px}:
        raise UserError(f"{path}: size: expected {size_px} px, as config.json says, got {content['size']}")
    pixel_config.check_pixel_steps(content, path, REFETCH)
    # the class crops unless the file turns it off
    if content.get("do_center_crop", True):
        print(f"{path}: crops its pictures to a square; here they are squashed to it, as Chinese-CLIP was trained")
    levels = {name: content.get(f"image_{name}") for name in ("mean", "std")}
    pixel_config.check_pixel_levels(levels, path, REFETCH)
    return pixel_config.make_pixel_config(levels)


def read_tokens(folder: Path) -> list[str]:
    """Return the tokens in the order of their ids, from vocab.txt or from a WordPiece tokenizer.json.

    Raises UserError where neither is there, or the tokenizer keeps capitals apart.
    """
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and read_json_object(settings, REFETCH).get("do_lower_case") is False:
        raise UserError(f"{settings}: do_lower_case: expected true, got false; texts are lower-cased here")
    packed = vocabulary_file.read_packed_tokens(folder / "tokenizer.json", REFETCH)
    if (plain := folder / "vocab.txt").is_file():
        tokens = vocabulary_file.read_token_lines(plain, REFETCH)
        # transformers strips the tokens that it packs, of which one is U+2028
        if packed and [token.strip() for token in packed] != [token.strip() for token in tokens]:
            raise UserError(
                f"{plain}: {len(tokens)} tokens that differ from the {len(packed)} of tokenizer.json beside it, "
                f"so ids would depend on the reader; {REFETCH}"
            )
        return tokens
    if packed:
        return packed
    raise UserError(f"{plain}: missing; expected the tokens of the model, one a line, beside its weights")


def find_token_file(folder: Path) -> Path:
    """Return the file from which `read_tokens` takes them."""
    return plain if (plain := folder / "vocab.txt").is_file() else folder / "tokenizer.json"


def write_folder(config: dict[str, Any], state: state_dict.State, vocabulary: list[str], out: Path) -> None:
    """Write our model as a folder that `ChineseCLIPModel.from_pretrained` and `ChineseCLIPProcessor` read."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    theirs = make_transformers_config(config)
    theirs.architectures = ["ChineseCLIPModel"]
    theirs.save_pretrained(out)
    (out / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer: dict[str, Any] = {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}
    if spelling.has_bytes(vocabulary):  # BERT's own reading of vocab.txt would make unknown tokens of words
        load_tokenizer(out / "vocab.txt").backend_tokenizer.save(str(out / "tokenizer.json"))
        tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "split_special_tokens": True}
        tokenizer |= {f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS}
    tokenizer |= {"model_max_length": config["text"]["max_tokens"]}
    files = {PREPROCESSOR_FILE: _make_preprocessor(config["image"]), "tokenizer_config.json": tokenizer}
    for name, body in files.items():
        write_json(out / name, body, sort_keys=True)
    tensors = state_dict.convert_to_theirs(state, {name: find_counterpart(name) for name in state})
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def make_transformers_config(config: dict[str, Any]) -> Any:
    """Return the ChineseCLIPConfig of our config."""
    declare_torchvision_ops()
    from transformers import ChineseCLIPConfig

    image, text = config["image"], config["text"]
    return ChineseCLIPConfig(
        vision_config={name: image[ours] for name, ours in VISION_KEYS.items()}
        | {"projection_dim": config["dim"]},
        text_config={name: text[ours] for name, ours in TEXT_KEYS.items()} | {"vocab_size": config["vocabulary"]},
        projection_dim=config["dim"],
    )


def _make_preprocessor(image: dict[str, Any]) -> dict[str, Any]:
    clip = {name: [value / 255 for value in levels] for name, levels in images.CLIP_PIXELS.items()}
    pixels = {f"image_{name}": image.get(name, clip[name]) for name in ("mean", "std")}
    steps = {f"do_{name}": True for name in ("resize", "rescale", "normalize", "convert_rgb")}
    square = {"size": {"height": image["size_px"], "width": image["size_px"]}, "do_center_crop": False}
    bicubic = {"resample": 3, "rescale_factor": 1 / 255, "image_processor_type": "ChineseCLIPImageProcessor"}
    return pixels | steps | square | bicubic
