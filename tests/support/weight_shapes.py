"""The published models at full size on the meta device: names and shapes, no numbers."""

import json

import torch

from tests.support import weights
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.weights import hugging_face as weights_hugging_face


def published(name: str) -> torch.nn.Module:
    """cn_clip's model of the name by its package's own configs."""
    from cn_clip.clip.utils import _MODEL_INFO

    folder, config = weights.VOCABULARY.parent / "model_configs", {}
    for part in _MODEL_INFO[name]["struct"].split("@"):
        config |= json.loads((folder / f"{part}.json").read_text())
    if isinstance(config["vision_layers"], str):
        config["vision_layers"] = json.loads(config["vision_layers"])
    with torch.device("meta"):
        return weights.CLIP(**config)


def hugging_face(encoder: DualEncoder) -> dict[str, tuple]:
    """Where transformers' model by the config that we write differs from our tensors: name -> both shapes."""
    from transformers import ChineseCLIPModel

    with torch.device("meta"):
        theirs = ChineseCLIPModel(weights_hugging_face.their_config(encoder.config))
    ours = encoder.state_dict()
    links = {name: weights_hugging_face.link(name) for name in ours}
    made = weights_hugging_face.states.to_theirs(ours, links)
    mine, wanted = ({n: tuple(t.shape) for n, t in state.items()} for state in (made, theirs.state_dict()))
    return {n: (mine.get(n), wanted.get(n)) for n in mine | wanted if mine.get(n) != wanted.get(n)}
