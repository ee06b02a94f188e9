"""What is inferred from cn_clip's tensors; test_load.py compares what it computes."""

from pathlib import Path

import pytest

from tests.support.weights import RESNET, VOCABULARY, cn_clip_model
from tuwen.core.errors import UserError
from tuwen.model import architectures
from tuwen.model.state_dict import Counterpart
from tuwen.model.weights import cn_clip


def test_our_tensors_have_cn_clips_names() -> None:
    assert cn_clip.find_counterpart("image_tower.projection.weight") == Counterpart(
        ("visual.proj",), transposed=True
    )
    assert cn_clip.find_counterpart("image_tower.layer.1.qkv.bias").names == (
        "visual.transformer.resblocks.1.attn.in_proj_bias",
    )
    assert cn_clip.find_counterpart("image_tower.norm_pre.weight").names == ("visual.ln_pre.weight",)
    assert cn_clip.find_counterpart("image_tower.layer1.0.bn1.running_mean").names == (
        "visual.layer1.0.bn1.running_mean",
    )
    assert cn_clip.find_counterpart("text_projection.weight") == Counterpart(("text_projection",), transposed=True)


def test_the_shape_of_a_model_is_that_of_its_tensors() -> None:
    config = cn_clip.infer_config(cn_clip_model().state_dict(), 52, Path("clip.pt"))
    assert config["image"] == architectures.make_vit_config(32, 16, 128, 2)
    assert config["text"] == architectures.make_bert_config(64, 2, 52)
    assert (config["dim"], config["vocabulary"]) == (48, 21128)
    resnet = cn_clip.infer_config(cn_clip_model(RESNET).state_dict(), 52, Path("clip.pt"))
    assert resnet["image"] == architectures.make_resnet_config(32, 16, [1, 1, 2, 1])
    with pytest.raises(UserError, match=r"clip\.pt: expected the tensors of a Chinese-CLIP .*there is no 'visual"):
        cn_clip.infer_config({}, 52, Path("clip.pt"))


def test_a_vocabulary_with_other_line_ends_is_the_same_and_one_that_cannot_be_read_is_named(
    tmp_path: Path,
) -> None:
    lines = VOCABULARY.read_bytes()
    (tmp_path / "vocab.txt").write_bytes(lines.replace(b"\n", b"\r\n"))
    tokens = cn_clip._read_tokens(tmp_path / "vocab.txt")
    assert len(tokens) == 21128
    assert tokens == cn_clip._read_tokens(VOCABULARY)
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"vocab\.txt: cannot be read as a vocabulary"):
        cn_clip._read_tokens(tmp_path / "vocab.txt")


def test_a_setting_that_cn_clip_has_as_a_constant_stands_beside_it() -> None:
    config = architectures.make_chinese_clip_config("ViT-B-16", 52)
    assert all(own == must for own, must in cn_clip.list_fixed_settings(config).values())
    config["image"] |= {"activation": "gelu"}
    config |= {"vocabulary": 7000}
    fixed = cn_clip.list_fixed_settings(config)
    assert {name: both for name, both in fixed.items() if both[0] != both[1]} == {
        "tokens": (7000, 21128),
        "activation": ("gelu", "quick_gelu"),
    }
