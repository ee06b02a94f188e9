"""Whole dual encoders of open_clip, in and out: folders of config, weights and tokenizer, as on the hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuwen.core.errors import UserError
from tuwen.data.formats import pinned
from tuwen.data.formats.json_file import read_json_object, write_json
from tuwen.data.formats.text import Vocabulary
from tuwen.data.formats.tokens import library_tokenizer
from tuwen.data.formats.tokens.library_tokenizer import TokenizerFiles
from tuwen.model import dual_encoder, state_dict
from tuwen.model.libraries import open_clip_towers
from tuwen.model.state_dict import State
from tuwen.model.weights import hugging_face, library, pixel_config
from tuwen.model.weights.open_clip import IMAGE_CONFIG, IMAGE_WEIGHTS
from tuwen.model.weights.published import START_PLACE, Published

if TYPE_CHECKING:
    from tuwen.core.params import OpenClipHub

OPEN_CLIP_FILES = (IMAGE_CONFIG, *library.TOKENIZER_FILES)
WHOLE_UNUSED = r"attn_mask|(text\.)?(attn_mask|transformer\.embeddings\.position_ids)"
FITS = {"shortest": "crop", "squash": "squash"}  # resize_mode -> fit of a PictureRule


def read_weights(start: "OpenClipHub", max_tokens: int) -> Published:
    """Return the dual encoder of open_clip that `start` pins.

    Raises UserError where a file is missing or not the pinned one, or the model is of a form that is not known
    here.
    """
    path = pinned.find_pinned(f"{START_PLACE}.model", start.model, start.revision, IMAGE_WEIGHTS, OPEN_CLIP_FILES)
    place = path.parent / IMAGE_CONFIG
    stored = read_json_object(place, hugging_face.REFETCH)
    if not isinstance(stored.get("model_cfg"), dict):
        whole = "expected the config of a whole model of open_clip"
        raise UserError(f"{place}: model_cfg: missing; {whole}; {hugging_face.REFETCH}")
    config = make_open_clip_config(stored, place, max_tokens)
    tokenizer = _read_tokenizer(path.parent, stored["model_cfg"]["text_cfg"])
    if start.picture_rule == "project":
        del config["image"]["rule"]
    try:
        counterparts = {name: library.find_counterpart(name) for name in dual_encoder.list_tensors(config)}
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"{place}: no layers can be built by it ({str(error)[:200]}); {hugging_face.REFETCH}"
        ) from None
    ours = state_dict.convert_to_ours(state_dict.read_state(path), counterparts, path, WHOLE_UNUSED)
    ours |= {name: ours[name].reshape(()) for name in ("log_scale", "logit_bias") if name in ours}
    return Published(config, ours, library_tokenizer.collect_tokenizer_files(tokenizer), path)


def make_open_clip_config(stored: dict[str, Any], place: Path, max_tokens: int) -> dict[str, Any]:
    """Return the config of dual_encoder.py for an open_clip_config.json. Raises UserError for unknown forms."""
    model, clip = stored["model_cfg"], stored.get("preprocess_cfg", {})
    vision, text = model["vision_cfg"], model["text_cfg"]
    _refuse_forms(model, place)
    mode, resample = clip.get("resize_mode", "shortest"), clip.get("interpolation", "bicubic")
    if mode not in FITS or resample not in ("bicubic", "bilinear"):
        raise UserError(
            f"{place}: preprocess_cfg: expected resize_mode shortest or squash, and interpolation bicubic or "
            f"bilinear, got {mode} and {resample}"
        )
    levels = {name: clip.get(name) for name in ("mean", "std")}
    pixel_config.check_pixel_levels(levels, place, hugging_face.REFETCH)
    image: dict[str, Any] = {"kind": "open_clip_hub", "size_px": vision["image_size"], "preprocess": clip}
    image |= {ours: vision[name] for name, ours in (("width", "width"), ("layers", "layers")) if name in vision}
    image["rule"] = {"fit": FITS[mode], "resample": resample, "rounds": True}
    image |= pixel_config.make_pixel_config(levels)
    image["library"] = {name: value for name, value in model.items() if name != "text_cfg"}
    positions = text.get("context_length", 77)
    words = {"kind": "open_clip_hub", "width": text.get("width", 512), "layers": text.get("layers", 12)}
    words |= {"positions": positions, "max_tokens": max_tokens, "padding": "max_length"}
    words["clean"] = text.get("tokenizer_kwargs", {}).get(
        "clean", "whitespace" if _has_own_tokenizer(text) else "lower"
    )
    words["library"] = {name: value for name, value in model.items() if name != "vision_cfg"}
    config = {
        "dim": model["embed_dim"],
        "image": image,
        "text": words,
        "vocabulary": text.get("vocab_size", 49408),
    }
    return config | ({"sigmoid": True} if model.get("init_logit_bias") is not None else {})


def _refuse_forms(model: dict[str, Any], place: Path) -> None:
    options, text = model["text_cfg"].get("tokenizer_kwargs", {}), model["text_cfg"]
    reasons = {
        "text_cfg.hf_model_name": text.get("hf_model_name"),
        "multimodal_cfg": model.get("multimodal_cfg"),
        "text_cfg.tokenizer_kwargs.tokenizer_mode": options.get("tokenizer_mode"),
        "text_cfg.tokenizer_kwargs.strip_sep_token": options.get("strip_sep_token"),
        "vision_cfg.image_size": None if isinstance(model["vision_cfg"].get("image_size"), int) else "no number",
    }
    if found := [f"{name} ({value})" for name, value in reasons.items() if value]:
        raise UserError(
            f"{place}: {', '.join(found)}: such models of open_clip are not read here; take their form of "
            "transformers, or a model without it"
        )


def _has_own_tokenizer(text: dict[str, Any]) -> bool:
    """Whether the tokenizer is one of transformers, and not the one that open_clip brings."""
    return bool(text.get("hf_tokenizer_name"))


def _read_tokenizer(folder: Path, text: dict[str, Any]) -> Any:
    if _has_own_tokenizer(text):
        return library.read_tokenizer(folder, text["vocab_size"])
    open_clip_towers.require_open_clip()
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    theirs = SimpleTokenizer()
    merges = sorted(theirs.bpe_ranks, key=theirs.bpe_ranks.__getitem__)
    start, end = theirs.all_special_ids
    names = {"bos_token": theirs.decoder[start], "eos_token": theirs.decoder[end]}
    return CLIPTokenizer(
        vocab=theirs.encoder, merges=merges, **names, unk_token=names["eos_token"], pad_token=names["eos_token"]
    )


def write_open_clip_folder(config: dict[str, Any], state: State, vocabulary: Vocabulary, out: Path) -> None:
    """Write our model as a folder that open_clip reads as `local-dir:…`: the way back.

    Raises UserError where open_clip would build other layers by the folder.
    """
    from safetensors.torch import save_file

    assert isinstance(vocabulary, TokenizerFiles)
    model = config["image"]["library"] | config["text"]["library"]
    _refuse_resized_timm(model, state)
    clip = dict(config["image"]["preprocess"])
    if "rule" not in config["image"]:  # the project's: squashed to the square
        clip |= {"resize_mode": "squash", "interpolation": "bicubic"}
    library_tokenizer.write_tokenizer_files(vocabulary, out)
    write_json(out / IMAGE_CONFIG, {"model_cfg": model, "preprocess_cfg": clip}, sort_keys=True)
    shape = (1,) if model.get("nonscalar_logit_scale") else ()
    shaped = {
        name: one.reshape(shape) if name in ("log_scale", "logit_bias") else one for name, one in state.items()
    }
    tensors = state_dict.convert_to_theirs(shaped, {name: library.find_counterpart(name) for name in state})
    save_file(tensors, out / IMAGE_WEIGHTS[0], metadata={"format": "pt"})


def _refuse_resized_timm(model: dict[str, Any], state: State) -> None:
    """Raise UserError for a tower of timm of another size than that of its name, at which open_clip builds it."""
    name, place = model["vision_cfg"].get("timm_model_name"), "visual.trunk.pos_embed"
    own = state.get(f"image_tower.side.{place}")
    if not name or own is None:
        return
    with torch.device("meta"):  # shapes alone
        theirs = open_clip_towers.build_open_clip_model(model).state_dict()[place]
    if own.shape != theirs.shape:
        raise UserError(
            f"cannot be written as open_clip: its tower has {own.shape[1]} positions (baseline.start."
            f"resize_positions), and open_clip builds {name} with {theirs.shape[1]} alone; `tuwen export model "
            "torch` can write it, and tuwen.load reads the folder as it is"
        )
