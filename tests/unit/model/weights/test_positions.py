"""Position embeddings for pictures of another size, each library's way; without the switch they are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.library_models import TOKENS, save_library_model
from tests.support.open_clip_models import save_open_clip_model
from tests.support.weights import VOCABULARY, cn_clip_model, draw_pictures, open_clip, sha256
from tuwen.core import params
from tuwen.core.errors import UserError
from tuwen.model import dual_encoder
from tuwen.model.weights.export import export_model
from tuwen.model.weights.load import load_weights
from tuwen.retrieval.retriever import load_retriever

LARGE_PX = 48
PICTURES = draw_pictures()


def library_start(folder: Path, **changes: object) -> params.Transformers:
    revision = sha256(folder / "model.safetensors")
    return params.Transformers.model_validate(
        {"kind": "transformers", "model": str(folder), "revision": revision} | changes
    )


def save(start: params.Start, folder: Path, tokens: int) -> Path:
    encoder, vocabulary = load_weights(start, LARGE_PX, tokens)
    dual_encoder.save_model(encoder, folder, vocabulary)
    return folder


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_model_of_transformers_takes_larger_pictures_as_the_library_interpolates(
    kind: str, tmp_path: Path
) -> None:
    model, _ = save_library_model(kind, tmp_path / "theirs")
    with pytest.raises(
        UserError, match=r"trained at 32 px, expected that, got 48; or set baseline\.start\.resize"
    ):
        load_weights(library_start(tmp_path / "theirs"), LARGE_PX, TOKENS)
    ours = save(library_start(tmp_path / "theirs", resize_positions=True), tmp_path / "ours", TOKENS)
    export_model("hugging_face", ours, tmp_path / "back")
    from transformers import AutoImageProcessor

    pixels = AutoImageProcessor.from_pretrained(tmp_path / "back", backend="pil")(PICTURES, return_tensors="pt")
    assert pixels["pixel_values"].shape[-1] == LARGE_PX
    found = model.get_image_features(**pixels, interpolate_pos_encoding=True).pooler_output
    theirs = nn.functional.normalize(found, dim=-1).numpy()
    assert np.abs(load_retriever(ours).encode_images(PICTURES) - theirs).max() < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("name", ["clip", "siglip2"])
def test_a_model_of_open_clip_takes_other_pictures_as_it_does(name: str, tmp_path: Path) -> None:
    save_open_clip_model(name, tmp_path / "theirs")
    weights = tmp_path / "theirs/open_clip_model.safetensors"
    start = params.OpenClipHub(
        kind="open_clip_hub", model=str(tmp_path / "theirs"), revision=sha256(weights), resize_positions=True
    )
    ours = save(start, tmp_path / "ours", 16)
    place = f"local-dir:{tmp_path / 'theirs'}"
    if name == "clip":
        model, preprocess = open_clip.create_model_from_pretrained(place, force_image_size=LARGE_PX)
    else:  # a tower of timm: open_clip cannot load it at another size, timm can be told it afterwards
        model, _ = open_clip.create_model_from_pretrained(place)
        model.visual.set_input_size(LARGE_PX)
        half = ((0.5,) * 3,) * 2
        preprocess = open_clip.image_transform(
            LARGE_PX, False, *half, resize_mode="squash", interpolation="bicubic"
        )
    theirs = model.encode_image(torch.stack([preprocess(one) for one in PICTURES]), normalize=True).numpy()
    assert np.abs(load_retriever(ours).encode_images(PICTURES) - theirs).max() < 1e-5
    config = json.loads((ours / "config.json").read_text())
    assert config["image"]["library"]["vision_cfg"]["image_size"] == LARGE_PX
    if name == "clip":
        export_model("open_clip", ours, tmp_path / "back")
        again, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'back'}")
        back = again.encode_image(torch.stack([preprocess(one) for one in PICTURES]), normalize=True).numpy()
        assert np.abs(back - theirs).max() < 1e-5
    else:
        with pytest.raises(
            UserError, match=r"as open_clip: its tower has 10 positions.*vit_tiny.* with 197 alone"
        ):
            export_model("open_clip", ours, tmp_path / "back")
        assert not (tmp_path / "back").exists()


def test_a_model_of_cn_clip_is_resized_as_its_package_does(tmp_path: Path) -> None:
    from cn_clip.clip.model import resize_pos_embed

    model = cn_clip_model()
    path = tmp_path / "clip.pt"
    torch.save({"state_dict": model.state_dict()}, path)
    settings = {"kind": "cn_clip", "file": str(path), "sha256": sha256(path), "vocabulary": str(VOCABULARY)}
    encoder, _ = load_weights(params.CnClip.model_validate(settings | {"resize_positions": True}), LARGE_PX, 52)
    state = {"visual.positional_embedding": model.state_dict()["visual.positional_embedding"]}
    model.visual.grid_size = (LARGE_PX // 16, LARGE_PX // 16)
    resize_pos_embed(state, model, prefix="")
    ours = encoder.state_dict()["image_tower.position_embedding"]
    assert ours.shape[0] == 1 + (LARGE_PX // 16) ** 2
    assert (ours - state["visual.positional_embedding"]).abs().max() < 1e-6


def test_a_size_that_patches_do_not_fill_is_refused(tmp_path: Path) -> None:
    save_library_model("clip", tmp_path)
    with pytest.raises(UserError, match=r"image\.size_px: expected a multiple of 16, .* got 50"):
        load_weights(library_start(tmp_path, resize_positions=True), 50, TOKENS)
