"""Config, vocabulary and preprocessor of a ChineseCLIPModel's folder; test_load.py compares what it computes."""

import json
from pathlib import Path

import pytest

from tests.support.weights import SIZE_PX, TOKENS, chinese_clip_folder
from tuwen.core.errors import UserError
from tuwen.data.formats.images import MEAN, STD
from tuwen.model.state_dict import Counterpart
from tuwen.model.weights import hugging_face, pixel_config


def write_json(path: Path, body: object) -> None:
    path.write_text(json.dumps(body), encoding="utf-8")


def test_our_query_key_and_value_are_three_matrices_there() -> None:
    layer = "vision_model.encoder.layers.3"
    names = tuple(f"{layer}.self_attn.{one}_proj.weight" for one in "qkv")
    assert hugging_face.find_counterpart("image_tower.layer.3.qkv.weight") == Counterpart(names)
    assert hugging_face.find_counterpart("image_tower.norm_pre.bias").names == ("vision_model.pre_layrnorm.bias",)
    assert hugging_face.find_counterpart("text_tower.embeddings.LayerNorm.bias").names == (
        "text_model.embeddings.LayerNorm.bias",
    )
    assert hugging_face.find_counterpart("log_scale").names == ("logit_scale",)


def test_a_config_has_the_shape_of_both_towers(tmp_path: Path) -> None:
    chinese_clip_folder(tmp_path)
    config = hugging_face.read_config(tmp_path, TOKENS)
    assert config["image"] == {
        **{"kind": "vit", "size_px": SIZE_PX, "patch_px": 16, "width": 64, "layers": 2, "heads": 4, "mlp": 160},
        **{"activation": "quick_gelu", "eps": 1e-4, "patch_dropout": 0.0},
    }
    assert config["text"] == {
        **{
            "width": 64,
            "layers": 2,
            "heads": 2,
            "mlp": 96,
            "positions": 64,
            "max_tokens": TOKENS,
            "pool": "first",
        },
        **{"activation": "gelu", "eps": 1e-12, "dropout": 0.1},
    }
    assert (config["dim"], config["vocabulary"]) == (48, 21128)


def test_a_preprocessor_of_another_size_is_refused_and_one_that_crops_is_reported(tmp_path: Path, capsys) -> None:
    chinese_clip_folder(tmp_path)
    clip = {"image_mean": [value / 255 for value in MEAN], "image_std": [value / 255 for value in STD]}
    old = tmp_path / "preprocessor_config.json"  # as transformers 4 writes it, and then it is the one that is read
    write_json(old, clip | {"size": {"height": 64, "width": 64}})
    with pytest.raises(
        UserError, match=r"preprocessor_config\.json: size: expected 32 px, as config\.json says, got"
    ):
        hugging_face.read_config(tmp_path, TOKENS)
    write_json(old, {"size": SIZE_PX, "image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    image = hugging_face.read_config(tmp_path, TOKENS)["image"]
    assert (image["mean"], image["std"]) == ([0.5] * 3, [0.25] * 3)
    assert "crops its pictures to a square; here they are squashed to it" in capsys.readouterr().out


def test_clips_own_pixels_are_left_out_of_the_config() -> None:
    near = {"mean": [value / 255 + 1e-8 for value in MEAN], "std": None}
    assert pixel_config.make_pixel_config(near) == {}
    own = pixel_config.make_pixel_config({"mean": [0.5] * 3, "std": None})
    assert own == {"mean": [0.5] * 3, "std": [value / 255 for value in STD]}


def test_tokens_come_from_vocab_txt_or_from_a_tokenizer_json_without_gaps(tmp_path: Path) -> None:
    packed = tmp_path / "tokenizer.json"
    write_json(packed, {"model": {"vocab": {"猫": 2, "[PAD]": 0, "熊": 1}}})
    assert hugging_face.read_tokens(tmp_path) == ["[PAD]", "熊", "猫"]
    write_json(packed, {"model": {"vocab": {"[PAD]": 0, "猫": 2}}})
    with pytest.raises(UserError, match=r"vocab\.txt: missing; expected the tokens of the model"):
        hugging_face.read_tokens(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n\u2028\n猫\n", encoding="utf-8")
    assert hugging_face.read_tokens(tmp_path) == ["[PAD]", "\u2028", "猫"]
