"""How deep the parameters of a tower lie: of our own towers, of transformers' and open_clip's."""

from pathlib import Path

import pytest
import torch

from tests.support.frozen import make_encoder
from tests.support.library_models import load_ours
from tests.support.training import TINY
from tuwen.core.errors import UserError
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.tower_layers import count_layers_above, list_tower_parameters

VISION = {"image_size": 32, "patch_size": 16, "layers": 3, "width": 64}
TEXT = {"context_length": 8, "vocab_size": 32, "width": 64, "heads": 1, "layers": 2}
MODEL = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}


def look_up(model: torch.nn.Module, *names: str) -> list[int]:
    depths = count_layers_above(model, "layer_decay: 0.5")
    return [depths[name] for name in names]


def test_of_our_own_vit_and_bert() -> None:
    model = DualEncoder(make_encoder().config | {"image": make_encoder().config["image"] | {"layers": 3}})
    vit = ("position_embedding", "patches.weight", "norm_pre.bias", "layer.0.fc1.weight", "layer.2.fc1.bias")
    assert look_up(model, *(f"image_tower.{name}" for name in (*vit, "norm_post.weight"))) == [4, 4, 4, 3, 1, 0]
    bert = (
        "embeddings.word_embeddings.weight",
        "embeddings.LayerNorm.bias",
        "encoder.layer.0.output.dense.weight",
    )
    assert look_up(model, *(f"text_tower.{name}" for name in bert)) == [2, 2, 1]
    others = {name for name, _ in model.named_parameters()} - set(list_tower_parameters(model))
    assert others == {"log_scale", "text_projection.weight", "image_tower.projection.weight"}


@pytest.mark.parametrize("kind", ["chinese_clip", "siglip"])
def test_of_a_model_of_transformers(kind: str, tmp_path: Path) -> None:
    model, _ = load_ours(kind, tmp_path)
    vision, text = "image_tower.side.vision_model.", "text_tower.side.text_model."
    blocks = "encoder.layer." if kind == "chinese_clip" else "encoder.layers."
    own = count_layers_above(model, "")
    for name, above in ((f"{vision}embeddings.", 3), (f"{vision}encoder.layers.0.", 2), (f"{vision}post_", 0)):
        assert {depth for key, depth in own.items() if key.startswith(name)} == {above}, name
    for name, above in ((f"{text}embeddings.", 3), (f"{text}{blocks}0.", 2), (f"{text}{blocks}1.", 1)):
        assert {depth for key, depth in own.items() if key.startswith(name)} == {above}, name
    others = {name.rpartition(".")[0] for name, _ in model.named_parameters()} - {
        key.rpartition(".")[0] for key in own
    }
    projections = {"image_tower.side.visual_projection", "text_tower.side.text_projection"}
    assert others - {""} == (projections if kind == "chinese_clip" else set())


def test_of_a_model_of_open_clip() -> None:
    pytest.importorskip("open_clip")
    image = {
        "kind": "open_clip_hub",
        "library": {k: v for k, v in MODEL.items() if k != "text_cfg"},
        "size_px": 32,
    }
    text = {"kind": "open_clip_hub", "library": {k: v for k, v in MODEL.items() if k != "vision_cfg"}, "width": 64}
    model = DualEncoder({"dim": 32, "image": image, "text": text | {"max_tokens": 8}, "vocabulary": 32})
    names = (
        "class_embedding",
        "conv1.weight",
        "ln_pre.bias",
        "transformer.resblocks.0.mlp.c_proj.weight",
        "ln_post.bias",
    )
    assert look_up(model, *(f"image_tower.side.visual.{name}" for name in names)) == [4, 4, 4, 3, 0]
    names = (
        "token_embedding.weight",
        "positional_embedding",
        "transformer.resblocks.1.ln_1.bias",
        "ln_final.bias",
    )
    assert look_up(model, *(f"text_tower.side.{name}" for name in names)) == [3, 3, 1, 0]
    others = {name for name, _ in model.named_parameters()} - set(list_tower_parameters(model))
    assert others == {"log_scale", "image_tower.side.visual.proj", "text_tower.side.text_projection"}


def test_a_tower_whose_layers_cannot_be_told_is_named_unless_it_is_frozen() -> None:
    pytest.importorskip("open_clip")
    resnet = {"kind": "resnet", "size_px": 32, "width": 8, "layers": [1, 1, 1, 1], "heads": 4}
    model = DualEncoder(TINY | {"image": resnet})
    with pytest.raises(
        UserError, match=r"layer_decay: 0\.5: image_tower has 4 lists of layers .*image_tower\.layer1"
    ):
        count_layers_above(model, "layer_decay: 0.5")
    model.image_tower.requires_grad_(False)
    assert {name.partition(".")[0] for name in count_layers_above(model, "")} == {"text_tower"}
    assert "image_tower.attnpool.c_proj.weight" not in list_tower_parameters(model)
