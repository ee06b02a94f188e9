"""The cross-encoders of R2D2 (Xie et al. 2022) in the layout of its public code, in and out.

There, `text_joint_layer` and `img_joint_layer` are BERTs whose layers have a cross-attention, and `itm_head` and
`itm_head_i` say whether the pair matches. It has no heads for masked tokens, patches and the text's vector: ours
stay as they were drawn. Its towers are not read; a dual encoder of ours stands below.
"""

import re
from pathlib import Path
from typing import Any

import torch

from tuwen.core.errors import UserError
from tuwen.model import state_dict
from tuwen.model.cross_block import BERT_PARTS
from tuwen.model.cross_encoder import CrossEncoder
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.reranker import make_cross_encoder
from tuwen.model.state_dict import Counterpart, State

R2D2_STREAMS = {"text_blocks": "text_joint_layer", "image_blocks": "img_joint_layer"}
R2D2_LINEARS = {"image_in": "img_joint_proj", "match_heads.0": "itm_head", "match_heads.1": "itm_head_i"}
# the towers and what belongs to them, and the BERTs' own tables of tokens, which R2D2 never looks up
R2D2_UNUSED = r"(visual_encoder|text_encoder|(text|img)_joint_layer\.embeddings|vision_proj|text_proj)\..*|temp"
FRESH_HEADS = ("token_head.", "patch_head.", "text_head.")  # that R2D2 does not publish
R2D2_DROPOUT = 0.1


def read_cross_encoder(path: Path, dual: DualEncoder) -> CrossEncoder:
    """Return R2D2's cross-encoders in the file `path` over the tokens of `dual`.

    Raises UserError where the file has none, or they are for tokens of other widths.
    """
    state = state_dict.read_state(path)
    cross = make_cross_encoder(dual, _infer_settings(state, path))
    if cross.config["width"] != dual.config["text"]["width"]:
        raise UserError(
            f"{path}: reads texts of width {cross.config['width']}, got a dual encoder whose texts have "
            f"{dual.config['text']['width']}; take the one that it was trained with"
        )
    counterparts = _list_counterparts(cross)
    ours = state_dict.convert_to_ours(state, counterparts, path, R2D2_UNUSED)
    state_dict.fill_layers(cross, cross.state_dict() | ours, path)
    return cross.eval()


def write_cross_encoder(cross: CrossEncoder, out: Path) -> None:
    """Write `cross` as a checkpoint whose cross-encoders R2D2's code loads.

    Raises UserError where it is of another form: R2D2 has the fusion `both`, heads 64 wide, and reads a tower's
    tokens as they are.
    """
    config = cross.config
    fits = (config["fusion"], config["heads"] * 64, config["text"]["width"], config["image_tokens"])
    if fits != ("both", config["width"], config["width"], None):
        raise UserError(
            f"{out}: R2D2's form has a place for the fusion both, heads 64 wide, texts as wide as the layers and "
            f"image tokens that are not compressed; got {config['fusion']}, {config['heads']} heads, width "
            f"{config['width']}, texts of {config['text']['width']} and image_tokens {config['image_tokens']}"
        )
    state = {name: tensor for name, tensor in cross.state_dict().items() if not name.startswith(FRESH_HEADS)}
    torch.save({"model": state_dict.convert_to_theirs(state, _list_counterparts(cross))}, out)


def find_counterpart(name: str) -> Counterpart:
    """Return where our tensor `name` stands in R2D2."""
    if match := re.fullmatch(r"(\w+_blocks)\.(\d+)\.([\w.]+)\.(weight|bias)", name):
        stream, number, part, kind = match.groups()
        layer = f"{R2D2_STREAMS[stream]}.encoder.layer.{number}"
        return Counterpart(tuple(f"{layer}.{theirs}.{kind}" for theirs in BERT_PARTS[part]))
    part, _, kind = name.rpartition(".")
    return Counterpart((f"{R2D2_LINEARS[part]}.{kind}",))


def _list_counterparts(cross: CrossEncoder) -> dict[str, Counterpart]:
    return {name: find_counterpart(name) for name in cross.state_dict() if not name.startswith(FRESH_HEADS)}


def _infer_settings(state: State, path: Path) -> dict[str, Any]:
    """Return what make_cross_encoder is given for R2D2's tensors, by their shapes."""
    numbers = [
        int(match[1]) for name in state if (match := re.match(r"text_joint_layer\.encoder\.layer\.(\d+)", name))
    ]
    inner = "text_joint_layer.encoder.layer.0.intermediate.dense.weight"
    if inner not in state:
        raise UserError(
            f"{path}: expected the tensors of R2D2's cross-encoders (text_joint_layer.…, img_joint_layer.…), got "
            f"{', '.join(list(state)[:4])}, …"
        )
    mlp, width = state[inner].shape
    shape = {
        "fusion": "both",
        "layers": 1 + max(numbers),
        "width": width,
        "heads": max(1, width // 64),
        "mlp": mlp,
    }
    return shape | {"dropout": R2D2_DROPOUT, "image_tokens": None}
