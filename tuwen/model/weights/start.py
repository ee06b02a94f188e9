"""The dual encoder that the baseline starts from: published weights, or layers drawn by chance."""

from collections.abc import Callable, Iterable

import torch

from tuwen.core.params import Params
from tuwen.data.formats.text import build_vocabulary
from tuwen.model import dual_encoder
from tuwen.model.architectures import make_chinese_clip_config
from tuwen.model.weights import load


def make_start(params: Params, spelt: Callable[[], Iterable[str]]) -> tuple[dual_encoder.DualEncoder, list[str]]:
    """What `baseline.start` names, and its vocabulary; `baseline.seed` decides what is drawn.

    spelt: gives the texts whose characters a fresh model knows. Raises UserError as `weights.load` does.
    """
    kind, size_px, max_tokens = params.baseline.start, params.image.size_px, params.text.max_tokens
    if kind.kind != "fresh":
        torch.manual_seed(params.baseline.seed)
        return load.load_weights(kind, size_px, max_tokens)
    vocabulary = build_vocabulary(spelt())
    if kind.shape:
        config = make_chinese_clip_config(kind.shape, max_tokens) | {"vocabulary": len(vocabulary)}
        load.agree(config, vocabulary, size_px, max_tokens)
    else:
        assert params.model  # root.py
        shape = params.model.model_dump()
        image, text = shape["image"] | params.image.model_dump(), shape["text"] | params.text.model_dump()
        config = {"dim": shape["dim"], "image": image, "text": text, "vocabulary": len(vocabulary)}
    torch.manual_seed(params.baseline.seed)
    return dual_encoder.DualEncoder(config), vocabulary
