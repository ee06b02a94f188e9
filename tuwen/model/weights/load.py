"""Weights that people have -> one dual encoder: a Hugging Face folder, cn_clip's file, two towers, our own folder.

And back: `export_model` writes a model of ours in the first two forms. Nothing is loaded by halves: a tensor that
is missing, unknown or of another shape is an error that lists it (state_dict.py).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuwen.core.errors import UserError
from tuwen.data.formats import pinned
from tuwen.model import dual_encoder, state_dict
from tuwen.model.weights import cn_clip, hugging_face, open_clip

if TYPE_CHECKING:
    from tuwen.core.params import CnClip, Folder, HuggingFace, OpenClip, Start

FORMS = ("hugging_face", "cn_clip")
PLACE = "params.yaml: baseline.start"
FRESH = ("image_tower.projection.weight", "text_projection.weight", "log_scale")


def load_weights(start: "Start", size_px: int, max_tokens: int) -> tuple[dual_encoder.DualEncoder, list[str]]:
    """The dual encoder of `start`, float32 whatever it was stored in, and its vocabulary.

    size_px, max_tokens: what params.yaml says of pictures and texts. Raises UserError that names the file, what
    was expected and what to do, where a file cannot be had, read or trusted, does not fit, or wants other
    pictures.
    """
    loaders: dict[str, Any] = {"hugging_face": _hugging_face, "cn_clip": _cn_clip, "folder": _folder}
    loaders["open_clip"] = _open_clip
    encoder, tokens = loaders[start.kind](start, max_tokens)
    agree(encoder.config, tokens, size_px, max_tokens)
    return encoder, tokens


def agree(config: dict[str, Any], tokens: list[str], size_px: int, max_tokens: int) -> None:
    """Raises UserError where params.yaml or the vocabulary is not what the model `config` can take."""
    positions = config["text"].get("positions", config["text"]["max_tokens"])
    if config["image"]["size_px"] != size_px:
        raise UserError(
            f"params.yaml: image.size_px: the weights of baseline.start were trained at "
            f"{config['image']['size_px']} px, expected that, got {size_px}"
        )
    if max_tokens > positions:
        raise UserError(
            f"params.yaml: text.max_tokens: the weights of baseline.start have {positions} positions, expected "
            f"that at most, got {max_tokens}"
        )
    if len(tokens) > config["vocabulary"]:
        raise UserError(
            f"{PLACE}: the vocabulary has {len(tokens)} tokens, expected {config['vocabulary']} at most, as the "
            "weights have; it belongs to another model"
        )


def _hugging_face(start: "HuggingFace", max_tokens: int) -> tuple[dual_encoder.DualEncoder, list[str]]:
    known = hugging_face
    weights = pinned.find_pinned(f"{PLACE}.model", start.model, start.revision, known.WEIGHTS, known.FILES)
    encoder = dual_encoder.DualEncoder(known.config(weights.parent, max_tokens))
    tokens = known.vocabulary(weights.parent)
    _fill(encoder, known.load(weights, list(encoder.state_dict())), weights)
    return encoder, tokens


def _cn_clip(start: "CnClip", max_tokens: int) -> tuple[dual_encoder.DualEncoder, list[str]]:
    weights = pinned.find_pinned(f"{PLACE}.file", start.file, start.sha256, (), ())
    tokens = cn_clip.vocabulary(Path(start.vocabulary))
    state = state_dict.read(weights)
    encoder = dual_encoder.DualEncoder(cn_clip.config(state, max_tokens, weights))
    _fill(encoder, cn_clip.load(state, list(encoder.state_dict()), weights), weights)
    return encoder, tokens


def _open_clip(start: "OpenClip", max_tokens: int) -> tuple[dual_encoder.DualEncoder, list[str]]:
    config, state, tokens = open_clip.load(start, max_tokens)
    encoder = dual_encoder.DualEncoder(config)
    fresh = encoder.state_dict()
    _fill(encoder, state | {name: fresh[name] for name in FRESH}, Path(start.image_weights))
    return encoder, tokens


def _folder(start: "Folder", max_tokens: int) -> tuple[dual_encoder.DualEncoder, list[str]]:
    weights = pinned.find_pinned(f"{PLACE}.folder", start.folder, start.sha256, ("model.safetensors",), ())
    encoder = dual_encoder.load_model(weights.parent)
    encoder.config["text"]["max_tokens"] = max_tokens
    return encoder, dual_encoder.read_vocabulary(weights.parent)


def _fill(encoder: dual_encoder.DualEncoder, state: state_dict.State, where: Path) -> None:
    state_dict.fill(encoder, state, str(where))


def export_model(form: str, folder: Path, out: Path) -> None:
    """Write the model in `folder` in another form: a folder for `hugging_face`, a `.pt` for `cn_clip`.

    Raises UserError for an unknown form, an `out` that is there, and a model that the form has no place for.
    """
    if form not in FORMS:
        raise UserError(f"no such form {form!r}; expected {' or '.join(FORMS)}")
    if out.exists():
        raise UserError(f"{out}: is there already; name another, or remove it")
    encoder = dual_encoder.load_model(folder)
    if hindrance := _hindrance(form, encoder.config):
        raise UserError(f"{folder}: cannot be written as {form}: {hindrance}")
    state, tokens = encoder.state_dict(), dual_encoder.read_vocabulary(folder)
    if form == "hugging_face":
        hugging_face.write(encoder.config, state, tokens, out)
    else:
        cn_clip.write(state, out)


def _hindrance(form: str, config: dict[str, Any]) -> str:
    """What the form has no place for, or nothing."""
    image, text = config["image"], config["text"]
    kinds = {"hugging_face": ("vit",), "cn_clip": ("vit", "resnet")}[form]
    if image.get("kind") not in kinds:
        return f"its picture tower is no {' or '.join(kinds)} of CLIP's form"
    if text.get("pool") != "first":
        return "its texts are averaged over their tokens, and the form takes the first"
    if form == "hugging_face":
        return ""
    fixed = cn_clip.fixed(config)
    return "; ".join(
        f"{name} is {has}, and there it is {must}" for name, (has, must) in fixed.items() if has != must
    )
