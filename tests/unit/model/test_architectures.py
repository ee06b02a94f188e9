"""The published shapes, against the packages that publish them."""

from pathlib import Path

import pytest
import torch

from tests.support.weight_shapes import build_published, compare_with_transformers
from tuwen.model import architectures, dual_encoder, state_dict
from tuwen.model.weights import cn_clip


@pytest.mark.parametrize("name", architectures.SHAPES)
def test_a_published_name_has_cn_clips_tensors_and_hugging_faces(name: str) -> None:
    config = architectures.make_chinese_clip_config(name, max_tokens=52)
    with torch.device("meta"):
        encoder = dual_encoder.DualEncoder(config)
    ours, theirs = encoder.state_dict(), build_published(name).state_dict()
    assert cn_clip.infer_config(theirs, 52, Path("clip.pt")) == config
    counterparts = {name: cn_clip.find_counterpart(name) for name in ours}
    converted = state_dict.convert_to_ours(theirs, counterparts, Path("clip.pt"), cn_clip.CN_CLIP_UNUSED)
    assert {n: t.shape for n, t in converted.items()} == {n: t.shape for n, t in ours.items()}
    if config["image"]["kind"] == "vit":
        assert compare_with_transformers(encoder) == {}


def test_a_shape_says_what_its_paper_says() -> None:
    config = architectures.make_chinese_clip_config("ViT-H-14", max_tokens=52)
    assert config["dim"] == 1024
    assert config["vocabulary"] == 21128
    assert (config["image"]["heads"], config["image"]["mlp"]) == (16, 5120)  # heads 80 wide, as in OpenCLIP's H/14
    assert (config["text"]["layers"], config["text"]["heads"]) == (24, 16)
    assert (config["text"]["max_tokens"], config["text"]["positions"]) == (52, 512)
