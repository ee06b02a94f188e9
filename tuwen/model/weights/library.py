"""Whole dual encoders of transformers, in and out: layers, tokenizer and picture rule are the library's own.

Only safetensors are read, and no code of a folder is ever run.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuwen.core.compat import declare_torchvision_ops
from tuwen.core.errors import UserError
from tuwen.data.formats import pinned
from tuwen.data.formats.json_file import read_json_object, write_json
from tuwen.data.formats.text import Vocabulary
from tuwen.data.formats.tokens import library_tokenizer
from tuwen.data.formats.tokens.library_tokenizer import TokenizerFiles
from tuwen.model import dual_encoder, state_dict
from tuwen.model.libraries import library_towers
from tuwen.model.state_dict import Counterpart, State
from tuwen.model.weights import fg_clip, hugging_face, library_pictures
from tuwen.model.weights.published import START_PLACE, Published

if TYPE_CHECKING:
    from tuwen.core.params import Transformers

MODEL_TYPES = ("altclip", "chinese_clip", "clip", "metaclip_2", "siglip", "siglip2")
SIGMOID_TYPES = ("siglip", "siglip2")  # trained by a sigmoid over pairs, on texts of one length without a mask
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
    "added_tokens.json",
    "*.model",
)
LIBRARY_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", *TOKENIZER_FILES)
# of a config: what says nothing of the layers
CONFIG_NOTES = ("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version")
LIBRARY_UNUSED = (
    r".*\.(position_ids|token_type_ids)|text_model\.pooler\..*"  # buffers and a pooler that no layer reads
)


def read_weights(start: "Transformers", max_tokens: int) -> Published:
    """Return the dual encoder of transformers that `start` pins.

    Raises UserError where a file is missing or not the pinned one, where the model would need code of its own,
    or is of no architecture in MODEL_TYPES.
    """
    path = pinned.find_pinned(
        f"{START_PLACE}.model", start.model, start.revision, pinned.SAFE_WEIGHTS, LIBRARY_FILES
    )
    theirs = read_library_config(path.parent, max_tokens)
    library, processor = _strip_notes(theirs.to_dict()), library_pictures.read_processor(path.parent)
    tokenizer = read_tokenizer(path.parent, theirs.text_config.vocab_size)
    config = make_library_config(library, processor, max_tokens)
    state: State = {}
    for part in pinned.list_parts(path):
        state |= state_dict.read_state(part)
    content = read_json_object(path.parent / "config.json", hugging_face.REFETCH)
    if content["model_type"] == fg_clip.MODEL_TYPE:
        config["image"]["rule"] |= {"patches": max(fg_clip.PATCH_COUNTS), "steps": list(fg_clip.PATCH_COUNTS)}
        config["text"]["clean"] = "str.lower"
        state = fg_clip.convert_state(state, content, max_tokens)
    if start.picture_rule == "project":
        del config["image"]["rule"]
    state = _load_by_library(theirs, state, path)
    counterparts = {name: find_counterpart(name) for name in dual_encoder.list_tensors(config)}
    ours = {name: state[one.names[0]] for name, one in counterparts.items()}
    ours |= {name: ours[name].reshape(()) for name in ("log_scale", "logit_bias") if name in ours}
    return Published(config, ours, library_tokenizer.collect_tokenizer_files(tokenizer), path)


def find_counterpart(name: str) -> Counterpart:
    """Return where our tensor `name` stands in the library's model."""
    common = {"log_scale": "logit_scale", "logit_bias": "logit_bias"}
    return Counterpart((common.get(name) or name.partition(".side.")[2],))


def read_library_config(folder: Path, max_tokens: int) -> Any:
    """Return the config of transformers in `folder`; max_tokens: of FG-CLIP 2, what it reads of a caption.

    Raises UserError where it is of no architecture in MODEL_TYPES, would need code of its own, or is broken.
    """
    declare_torchvision_ops()
    from transformers import AutoConfig

    path = folder / "config.json"
    content = read_json_object(path, hugging_face.REFETCH)
    kind = content.get("model_type")
    if kind == fg_clip.MODEL_TYPE:
        return AutoConfig.for_model(**fg_clip.make_siglip2_config(content, max_tokens, path))
    if kind not in MODEL_TYPES:
        own = sorted(set(map(str, content.get("auto_map", {}).values())))
        why = f", whose layers are code of its own ({', '.join(own)}), which is never run here" if own else ""
        known = ", ".join((*MODEL_TYPES, fg_clip.MODEL_TYPE))
        raise UserError(f"{path}: model_type: expected one of {known}, got {kind!r}{why}")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # it validates with exceptions of its own
        raise UserError(f"{path}: no config of {kind}: {_describe(error)}; {hugging_face.REFETCH}") from None


def read_tokenizer(folder: Path, rows: int) -> Any:
    """Return the tokenizer in `folder`. Raises UserError where there is none, or its ids reach beyond `rows`."""
    try:
        tokenizer = library_tokenizer.load_library_tokenizer(folder)
    except Exception as error:  # as many as there are forms
        raise UserError(
            f"{folder}: no tokenizer of transformers in it: {_describe(error)}; {hugging_face.REFETCH}"
        ) from None
    if len(tokenizer) > rows:
        raise UserError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, expected {rows} at most, the rows of the table "
            "of embeddings; take the tokenizer that was published with these weights"
        )
    return tokenizer


def make_library_config(library: dict[str, Any], processor: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    """Return the config of dual_encoder.py for the library's config and its image processor, both as dicts."""
    vision, text, kind = library["vision_config"], library["text_config"], library["model_type"]
    image = {"kind": "transformers", "width": vision["hidden_size"], "layers": vision["num_hidden_layers"]}
    image |= {"patch_px": vision["patch_size"], "processor": processor}
    image |= library_pictures.make_picture_config(processor, vision)
    image["library"] = {name: value for name, value in library.items() if name != "text_config"}
    words = {"kind": "transformers", "width": text["hidden_size"], "layers": text["num_hidden_layers"]}
    words |= {"positions": text["max_position_embeddings"], "max_tokens": max_tokens}
    if kind == "altclip":  # RoBERTa counts its positions from behind that of the padding
        words["positions"] -= text["pad_token_id"] + 1
    if kind in SIGMOID_TYPES:
        words["padding"] = "max_length"
    words["library"] = {name: value for name, value in library.items() if name != "vision_config"}
    dim = library.get("projection_dim") or text.get("projection_size") or text["hidden_size"]
    config = {"dim": dim, "image": image, "text": words, "vocabulary": text["vocab_size"]}
    return config | ({"sigmoid": True} if kind in SIGMOID_TYPES else {})


def _strip_notes(config: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in CONFIG_NOTES}
    return {name: _strip_notes(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _load_by_library(theirs: Any, state: State, path: Path) -> State:
    """Return the tensors of `path` as the library's model takes them, old names included.

    Raises UserError that lists what does not fit.
    """
    from transformers.models.auto.modeling_auto import MODEL_MAPPING
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of the misfit is below, as one message
    try:
        model, report = MODEL_MAPPING[type(theirs)].from_pretrained(
            None, config=theirs, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        logging.set_verbosity(before)
    faults = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(
            name for name in report["unexpected_keys"] if not state_dict.is_named(name, LIBRARY_UNUSED)
        ),
        "of another shape": [
            f"{name}: expected {tuple(due)}, got {tuple(got)}" for name, got, due in report["mismatched_keys"]
        ],
    }
    state_dict.refuse_misfit(path, faults)
    return {name: tensor.float() for name, tensor in model.state_dict().items()}


def _describe(error: Exception) -> str:
    return str(error).strip().replace("\n", " ")[:300]


def write_library_folder(config: dict[str, Any], state: State, vocabulary: Vocabulary, out: Path) -> None:
    """Write our model as a folder that transformers' AutoModel and AutoProcessor read: the way back."""
    from safetensors.torch import save_file
    from transformers import AutoConfig

    assert isinstance(vocabulary, TokenizerFiles)
    library = config["image"]["library"] | config["text"]["library"]
    theirs = AutoConfig.for_model(**library)
    theirs.architectures = [type(library_towers.build_library_model(library)).__name__]
    library_tokenizer.write_tokenizer_files(vocabulary, out)
    theirs.save_pretrained(out)
    write_json(out / "preprocessor_config.json", library_pictures.make_processor(config["image"]), sort_keys=True)
    shaped = {
        name: tensor.reshape(1) if config.get("sigmoid") and name in ("log_scale", "logit_bias") else tensor
        for name, tensor in state.items()
    }
    tensors = state_dict.convert_to_theirs(shaped, {name: find_counterpart(name) for name in state})
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
