"""Whole dual encoders of open_clip: what ours computes is what it does, and the way back is bit-equal."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.library_models import CAPTIONS
from tests.support.open_clip_models import CONFIGS, SIZE_PX, TEXT, pin_open_clip, save_open_clip_model
from tests.support.weights import draw_pictures, open_clip, sha256
from tuwen.core import params
from tuwen.core.errors import UserError
from tuwen.model import dual_encoder
from tuwen.model.weights.export import export_model
from tuwen.model.weights.load import load_weights
from tuwen.retrieval.retriever import load_retriever


@pytest.mark.parametrize("name", CONFIGS)
def test_vectors_and_logits_are_open_clips_and_the_way_back_is_bit_equal(name: str, tmp_path: Path) -> None:
    save_open_clip_model(name, tmp_path / "theirs")
    size_px = CONFIGS[name]["model_cfg"]["vision_cfg"]["image_size"]
    encoder, vocabulary = load_weights(pin_open_clip(tmp_path / "theirs"), size_px, TEXT["context_length"])
    dual_encoder.save_model(encoder, tmp_path / "ours", vocabulary)
    retriever, pictures = load_retriever(tmp_path / "ours"), draw_pictures()
    images, texts = retriever.encode_images(pictures), retriever.encode_texts(CAPTIONS)

    place = f"local-dir:{tmp_path / 'theirs'}"
    model, preprocess = open_clip.create_model_from_pretrained(place)
    tokenizer = open_clip.get_tokenizer(place)
    with torch.inference_mode():
        pixels = torch.stack([preprocess(picture) for picture in pictures])
        logits, _ = model.get_logits(pixels, tokenizer(CAPTIONS))
        assert np.abs(images - model.encode_image(pixels, normalize=True).numpy()).max() < 1e-5
        assert np.abs(texts - model.encode_text(tokenizer(CAPTIONS), normalize=True).numpy()).max() < 1e-5
    ours = retriever.model
    bias = 0 if ours.logit_bias is None else ours.logit_bias.item()
    assert np.abs(ours.log_scale.exp().item() * images @ texts.T + bias - logits.numpy()).max() < 1e-3

    export_model("open_clip", tmp_path / "ours", tmp_path / "back")
    again, preprocess_again = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'back'}")
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(preprocess_again(pictures[0]), pixels[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"text_cfg": {"hf_model_name": "xlm-roberta-base"}},
            r"text_cfg\.hf_model_name \(xlm-roberta-base\): such",
        ),
        ({"text_cfg": {"tokenizer_kwargs": {"strip_sep_token": True}}}, r"strip_sep_token \(True\): such models"),
    ],
)
def test_forms_that_are_not_known_here_are_refused_by_name(change: dict, message: str, tmp_path: Path) -> None:
    save_open_clip_model("clip", tmp_path / "theirs")
    path = tmp_path / "theirs/open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"] |= change["text_cfg"]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load_weights(pin_open_clip(tmp_path / "theirs"), SIZE_PX, 16)


def test_a_checkpoint_of_its_training_is_read_without_optimizer_and_average(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save_open_clip_model("clip", tmp_path / "theirs")
    state = load_file(tmp_path / "theirs/open_clip_model.safetensors")
    whole, _ = load_weights(pin_open_clip(tmp_path / "theirs"), SIZE_PX, 16)
    (tmp_path / "theirs/open_clip_model.safetensors").unlink()
    average = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    path = tmp_path / "theirs/open_clip_pytorch_model.bin"
    trained = {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}
    torch.save(trained | {"state_dict_ema": average, "optimizer": {"state": {}, "param_groups": []}}, path)
    again, _ = load_weights(
        params.OpenClipHub(kind="open_clip_hub", model=str(tmp_path / "theirs"), revision=sha256(path)),
        SIZE_PX,
        16,
    )
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())
