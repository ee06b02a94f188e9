"""The published models at full size on the meta device: names and shapes, no numbers."""

import json

import torch

from tests.support import weights
from tuwen.model import state_dict
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.weights import hugging_face


def build_published(name: str) -> torch.nn.Module:
    """Build cn_clip's model of the name by its package's own configs."""
    from cn_clip.clip.utils import _MODEL_INFO

    folder, config = weights.VOCABULARY.parent / "model_configs", {}
    for part in _MODEL_INFO[name]["struct"].split("@"):
        config |= json.loads((folder / f"{part}.json").read_text())
    if isinstance(config["vision_layers"], str):
        config["vision_layers"] = json.loads(config["vision_layers"])
    with torch.device("meta"):
        return weights.CLIP(**config)


def compare_with_transformers(encoder: DualEncoder) -> dict[str, tuple]:
    """Return where our tensors differ from those of transformers' model of our config: name -> both shapes."""
    from transformers import ChineseCLIPModel

    with torch.device("meta"):
        theirs = ChineseCLIPModel(hugging_face.make_transformers_config(encoder.config))
    state = encoder.state_dict()
    converted = state_dict.convert_to_theirs(state, {name: hugging_face.find_counterpart(name) for name in state})
    ours, wanted = ({n: tuple(t.shape) for n, t in one.items()} for one in (converted, theirs.state_dict()))
    return {n: (ours.get(n), wanted.get(n)) for n in ours | wanted if ours.get(n) != wanted.get(n)}
