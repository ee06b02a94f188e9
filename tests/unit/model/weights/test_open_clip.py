"""An image tower of open_clip and a BERT under fresh projections."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.weights import CAPTIONS, VOCABULARY, draw_pictures, open_clip, sha256, stir
from tuwen.core.errors import UserError
from tuwen.core.params import Folder, OpenClip
from tuwen.data.formats.images import make_pixel_tensor, resize_to_square
from tuwen.data.formats.text import load_tokenizer, tokenize
from tuwen.model import dual_encoder
from tuwen.model.weights import load
from tuwen.retrieval.encode import embed_captions, embed_images

TEXT = {"context_length": 8, "vocab_size": 50, "width": 64, "heads": 1, "layers": 1}
PLAIN = {"image_size": 32, "layers": 2, "width": 128, "patch_size": 16}
RESNET = PLAIN | {"layers": [1, 1, 1, 1], "width": 16}
SHAPES = {
    "small-quickgelu": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": PLAIN, "text_cfg": TEXT},
    "small-averaged": {"embed_dim": 24, "vision_cfg": PLAIN | {"pool_type": "avg"}, "text_cfg": TEXT},
    "small-resnet": {"embed_dim": 24, "vision_cfg": RESNET, "text_cfg": TEXT},
}


@pytest.fixture(params=SHAPES)
def name(request, tmp_path: Path) -> str:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / f"{request.param}.json").write_text(json.dumps(SHAPES[request.param]))
    open_clip.add_model_config(tmp_path / "configs")
    return request.param


def save_published(name: str, folder: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Save open_clip's CLIP and a BERT for masked words as both are published, and return them."""
    from safetensors.torch import save_file
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    clip = stir(open_clip.create_model(name))
    folder.mkdir()
    save_file(
        {k: v.contiguous().clone() for k, v in clip.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    clip_config = {"model_cfg": SHAPES[name], "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(clip_config))
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    bert = stir(BertForMaskedLM(BertConfig(vocab_size=21128, max_position_embeddings=64, **shape)))
    bert.save_pretrained(folder / "bert")
    (folder / "bert/vocab.txt").write_bytes(VOCABULARY.read_bytes())
    return clip, bert


def make_start(name: str, folder: Path) -> OpenClip:
    image, text = folder / "open_clip_model.safetensors", folder / "bert/model.safetensors"
    return OpenClip(
        kind="open_clip",
        image=name,
        image_weights=str(folder),
        image_revision=sha256(image),
        text=str(folder / "bert"),
        text_revision=sha256(text),
        dim=16,
    )


@torch.no_grad()
def test_both_towers_compute_what_they_computed_before_their_projections(tmp_path, name: str) -> None:
    clip, bert = save_published(name, tmp_path / "hub")
    torch.manual_seed(5)
    encoder, _ = load.load_weights(make_start(name, tmp_path / "hub"), 32, 52)
    encoder.eval()
    pixels = make_pixel_tensor([resize_to_square(picture, 32) for picture in draw_pictures()])
    if isinstance(getattr(clip.visual, "proj", None), torch.nn.Parameter):
        clip.visual.proj = None
    own = pixels * encoder.pixel_factor + encoder.pixel_shift
    image = encoder.image_tower.projection(clip.visual(own))
    torch.testing.assert_close(
        encoder.encode_image(pixels), torch.nn.functional.normalize(image), atol=1e-5, rtol=0
    )
    ids, mask = tokenize(load_tokenizer(VOCABULARY), ["一只大熊猫坐在竹林里吃竹子", "猫"], 52)
    first = bert.bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    text = torch.nn.functional.normalize(encoder.text_projection(first))
    torch.testing.assert_close(encoder.encode_text(ids, mask), text, atol=1e-5, rtol=0)
    assert encoder.config["image"]["kind"] == ("vit" if name == "small-quickgelu" else "open_clip")
    assert encoder.scale.item() == pytest.approx(1 / 0.07)
    torch.manual_seed(5)
    again, _ = load.load_weights(make_start(name, tmp_path / "hub"), 32, 52)
    assert torch.equal(again.text_projection.weight, encoder.text_projection.weight)


def test_saved_as_our_own_folder_it_gives_the_same_vectors_bit_for_bit(tmp_path, name: str) -> None:
    save_published(name, tmp_path / "hub")
    encoder, tokens = load.load_weights(make_start(name, tmp_path / "hub"), 32, 52)
    dual_encoder.save_model(encoder, tmp_path / "ours", tokens)
    again = Folder(
        kind="folder", folder=str(tmp_path / "ours"), sha256=sha256(tmp_path / "ours/model.safetensors")
    )
    loaded, same_tokens = load.load_weights(again, 32, 52)
    assert same_tokens == tokens
    squares = [resize_to_square(picture, 32) for picture in draw_pictures()]
    tokenizer = load_tokenizer(tmp_path / "ours/vocab.txt")
    for one in (encoder, loaded):
        one.eval()
    first, second = (
        (embed_images(one, squares, 3), embed_captions(one, tokenizer, CAPTIONS, 4)) for one in (encoder, loaded)
    )
    assert all(np.array_equal(*both) for both in zip(first, second, strict=True))
    assert not np.allclose(first[0][0], first[0][1])  # the images have different vectors


@pytest.mark.parametrize("name", ["small-quickgelu"], indirect=True)
def test_another_name_or_kind_is_refused(tmp_path, name: str) -> None:
    save_published(name, tmp_path / "hub")
    right = make_start(name, tmp_path / "hub")
    with pytest.raises(UserError, match=r"baseline\.start\.image: open_clip knows no 'ViT-L-15', but ViT-L-14"):
        load.load_weights(right.model_copy(update={"image": "ViT-L-15"}), 32, 52)
    with pytest.raises(UserError, match=r"open_clip_config\.json: is another tower than open_clip's 'ViT-B-32'"):
        load.load_weights(right.model_copy(update={"image": "ViT-B-32"}), 32, 52)
    config = tmp_path / "hub/bert/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "roberta"}))
    with pytest.raises(UserError, match=r"config\.json: model_type: expected 'bert'.* got 'roberta'"):
        load.load_weights(right, 32, 52)
