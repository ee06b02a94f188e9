"""FG-CLIP 2 without its remote code: random weights of its layout, both walks against their definition."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.fg_clip import EXTRA, KEEP, LONG, choose_patches, save_fg_clip
from tests.support.library_models import CAPTIONS, SIZE_PX, TOKENS, pin
from tests.support.weights import draw_pictures
from tuwen.core.errors import UserError
from tuwen.model import dual_encoder
from tuwen.model.weights.export import export_model
from tuwen.model.weights.load import load_weights
from tuwen.retrieval.retriever import load_retriever


def load(folder: Path, max_tokens: int) -> Any:
    encoder, vocabulary = load_weights(pin(folder), SIZE_PX, max_tokens)
    dual_encoder.save_model(encoder, folder / f"ours-{max_tokens}", vocabulary)
    return load_retriever(folder / f"ours-{max_tokens}")


def encode_long(model: Any, own: Any, ids: torch.Tensor) -> torch.Tensor:
    """Walk `long` by its definition: two tables of positions under masks, the last token, a head of its own."""
    place = torch.arange(LONG)
    first = (place < KEEP).float()[:, None]
    positions = own["ori"](place) * first + own["res"](place) * (1 - first)
    text = model.text_model
    states = text.encoder(inputs_embeds=text.embeddings.token_embedding(ids) + positions).last_hidden_state
    return own["longtext_head"](text.final_layer_norm(states)[:, -1])


@torch.inference_mode()
def test_both_walks_and_pictures_of_any_size_are_fg_clips(tmp_path: Path) -> None:
    model, processor, own = save_fg_clip(tmp_path)
    pictures, lower = draw_pictures(), [caption.lower() for caption in CAPTIONS]
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    short, long = load(tmp_path, TOKENS), load(tmp_path, LONG)

    ids = processor.tokenizer(lower, max_length=TOKENS, **options)["input_ids"]
    theirs = nn.functional.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
    assert np.abs(short.encode_texts(CAPTIONS) - theirs.numpy()).max() < 1e-5

    ids = processor.tokenizer(lower, max_length=LONG, **options)["input_ids"]
    theirs = nn.functional.normalize(encode_long(model, own, ids), dim=-1)
    assert np.abs(long.encode_texts(CAPTIONS) - theirs.numpy()).max() < 1e-5
    assert np.abs(short.encode_texts(CAPTIONS) - long.encode_texts(CAPTIONS)).max() > 0.01

    for number, picture in enumerate(pictures):
        patches = choose_patches(picture)
        pixels = processor.image_processor(picture, max_num_patches=patches, return_tensors="pt")
        theirs = nn.functional.normalize(model.get_image_features(**pixels).pooler_output, dim=-1)
        assert np.abs(short.encode_images([picture]) - theirs.numpy()).max() < 1e-5, number


@torch.inference_mode()
@pytest.mark.parametrize("max_tokens", [TOKENS, LONG])
def test_each_walk_is_written_back_as_a_siglip2_whose_caller_chooses_the_patches(
    max_tokens: int, tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    save_fg_clip(tmp_path / "theirs")
    retriever, out = load(tmp_path / "theirs", max_tokens), tmp_path / "back"
    export_model("hugging_face", tmp_path / f"theirs/ours-{max_tokens}", out)
    model, processor = AutoModel.from_pretrained(out), AutoImageProcessor.from_pretrained(out, backend="pil")
    assert model.config.model_type == "siglip2"
    options = {"padding": "max_length", "truncation": True, "max_length": max_tokens, "return_tensors": "pt"}
    words = AutoTokenizer.from_pretrained(out)([caption.lower() for caption in CAPTIONS], **options)
    texts = nn.functional.normalize(model.get_text_features(**words).pooler_output, dim=-1)
    assert np.abs(retriever.encode_texts(CAPTIONS) - texts.numpy()).max() < 1e-5

    def embed(**options: int) -> np.ndarray:
        pixels = processor(picture, return_tensors="pt", **options)
        return nn.functional.normalize(model.get_image_features(**pixels).pooler_output, dim=-1).numpy()

    assert processor.max_num_patches == 6  # as the folder had it, for pictures of every size
    for picture in draw_pictures():
        ours = retriever.encode_images([picture])
        assert np.abs(ours - embed(max_num_patches=choose_patches(picture))).max() < 1e-5
        assert np.abs(ours - embed()).max() > 0.01


def test_tokens_of_no_walk_and_a_walk_without_its_positions_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_fg_clip(tmp_path)
    with pytest.raises(UserError, match=rf"text\.max_tokens: FG-CLIP 2 .* in {TOKENS} tokens and .*got 20"):
        load(tmp_path, 20)
    state = load_file(tmp_path / "model.safetensors")
    del state[f"{EXTRA}_res.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"1 missing \(text_model\.embeddings\.position_embedding\.weight\)"):
        load(tmp_path, LONG)
