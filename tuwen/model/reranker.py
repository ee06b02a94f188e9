"""A re-ranker: a dual encoder and a cross encoder over its tokens, made and kept as one model folder.

The folder is that of a dual encoder, whole, with `cross_encoder.json` (the layers) and `cross_encoder.safetensors`
beside its files.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tuwen.core.errors import UserError
from tuwen.data.formats.json_file import read_json_object, write_json
from tuwen.model import dual_encoder, state_dict
from tuwen.model.cross_block import copy_bert_layer
from tuwen.model.cross_encoder import CrossEncoder
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.image_tokens import infer_token_shape
from tuwen.model.stored_model import REMAKE

CROSS_CONFIG = "cross_encoder.json"
CROSS_WEIGHTS = "cross_encoder.safetensors"


class ReRanker(NamedTuple):
    """What re-ranks: the dual encoder that pre-ranks and gives the tokens, and the layers over them."""

    dual: DualEncoder
    cross: CrossEncoder


def make_cross_encoder(dual: DualEncoder, settings: Mapping[str, Any]) -> CrossEncoder:
    """Return a cross encoder for the tokens of `dual`; what is drawn comes from torch's generator.

    settings: fusion, layers, width, heads, mlp, dropout and image_tokens, as in cross_encoder.py. Self-attention
    and perceptron of each block start from the text tower's last layers, and the token head from its table of
    tokens, where their shapes fit; the cross-attention adds nothing yet. Raises UserError for a tower without
    tokens, and as CrossEncoder.
    """
    image = infer_token_shape(dual.config["image"])._asdict()
    given = {"image": image, "text": {"width": dual.config["text"]["width"]}}
    cross = CrossEncoder({**settings, **given, **{name: dual.config[name] for name in ("dim", "vocabulary")}})
    _start_from_text_tower(cross, dual)
    return cross


@torch.no_grad()
def _start_from_text_tower(cross: CrossEncoder, dual: DualEncoder) -> None:
    """Copy what fits; of more blocks than the tower has layers, the first stay as they were drawn."""
    tower: Any = dual.text_tower
    config = cross.config
    if config["width"] != tower.shape.width:
        return
    cross.token_head.decoder.weight.copy_(tower.get_input_embeddings().weight)
    shape = (tower.shape.heads, tower.shape.mlp)
    if (config["heads"], config["mlp"]) != shape or tower.shape.activation != "gelu":
        return
    layers = list(tower.encoder.layer)[-config["layers"] :]
    for blocks in [cross.text_blocks, *([cross.image_blocks] if hasattr(cross, "image_blocks") else [])]:
        for block, layer in zip(list(blocks)[-len(layers) :], layers, strict=True):
            copy_bert_layer(block, layer)


def save_reranker(cross: CrossEncoder, dual_folder: Path, folder: Path) -> None:
    """Write the dual encoder in `dual_folder` and `cross` into `folder`, which may be that folder itself."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve() != dual_folder.resolve():
        for name in dual_encoder.MODEL_FILES:
            shutil.copyfile(dual_folder / name, folder / name)
    from safetensors.torch import save_file

    write_json(folder / CROSS_CONFIG, cross.config, sort_keys=True)
    save_file({k: v.contiguous() for k, v in cross.state_dict().items()}, folder / CROSS_WEIGHTS)


def has_reranker(folder: Path) -> bool:
    """Return whether the model folder holds a cross encoder."""
    return (folder / CROSS_CONFIG).is_file()


def load_reranker(folder: Path) -> ReRanker:
    """Load what `save_reranker` wrote, on the CPU and in evaluation mode.

    Raises UserError where a file is missing or broken, or the weights do not fit, or are not of this dual encoder.
    """
    place = folder / CROSS_CONFIG
    if not has_reranker(folder):
        raise UserError(f"{place}: missing; it holds no re-ranker: name the folder of one, or train one (rerank)")
    dual, config = dual_encoder.load_model(folder), read_json_object(place, REMAKE)
    try:
        cross = CrossEncoder(config)
    except (KeyError, TypeError, ValueError, RuntimeError, UserError) as error:
        raise UserError(f"{place}: no layers can be built by it ({error!r}); {REMAKE}") from None
    given = infer_token_shape(dual.config["image"])
    if (config["image"]["width"], config["text"]["width"]) != (given.width, dual.config["text"]["width"]):
        raise UserError(f"{place}: is for tokens of other widths than those of the towers beside it; {REMAKE}")
    state_dict.fill_layers(cross, state_dict.read_state(folder / CROSS_WEIGHTS), folder / CROSS_WEIGHTS)
    return ReRanker(dual, cross.eval())
