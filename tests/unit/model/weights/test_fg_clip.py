"""FG-CLIP 2 without its remote code: random weights of its layout, both walks against their definition."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.library_models import CAPTIONS, PATCH_PX, TOKENS, save_library_model
from tests.support.weights import draw_pictures, sha256, stir
from tuwen.core import params
from tuwen.core.errors import UserError
from tuwen.model import dual_encoder
from tuwen.model.weights.load import load_weights
from tuwen.retrieval.retriever import load_retriever

SIZE_PX, LONG, KEEP = 32, 24, 5
EXTRA = "text_model.embeddings.position_embedding"


def save_fg_clip(folder: Path) -> tuple[Any, Any, nn.Module]:
    """Save FG-CLIP 2 in small; return SigLIP 2 of its common layers, its processor, and the layers of its own."""
    from safetensors.torch import load_file, save_file

    model, processor = save_library_model("siglip2", folder)
    own = nn.ModuleDict(
        {
            "ori": nn.Embedding(LONG, 32),
            "res": nn.Embedding(LONG, 32),
            "longtext_head": nn.Linear(32, 32),
            "boxtext_head": nn.Linear(32, 32),
        }
    )
    stir(own)
    names = {"ori.weight": f"{EXTRA}_ori.weight", "res.weight": f"{EXTRA}_res.weight"}
    state = load_file(folder / "model.safetensors")
    state |= {names.get(name, name): tensor for name, tensor in own.state_dict().items()}
    state |= {"dense_feature_head.probe": torch.randn(1, 1, 32)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "fgclip2", "auto_map": {"AutoModelForCausalLM": "modeling_fgclip2.Fgclip2Model"}}
    config["text_config"] |= {"model_type": "fgclip2_text_model", "longtext_len": LONG, "keep_len": KEEP}
    config["vision_config"] |= {"model_type": "fgclip2_vision_model"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return model, processor, own


def load(folder: Path, max_tokens: int) -> Any:
    start = params.Transformers(
        kind="transformers", model=str(folder), revision=sha256(folder / "model.safetensors")
    )
    encoder, vocabulary = load_weights(start, SIZE_PX, max_tokens)
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
        patches = (picture.width // PATCH_PX) * (picture.height // PATCH_PX)
        most = next(count for count in (128, 256, 576, 784, 1024) if patches <= count)
        pixels = processor.image_processor(picture, max_num_patches=most, return_tensors="pt")
        theirs = nn.functional.normalize(model.get_image_features(**pixels).pooler_output, dim=-1)
        assert np.abs(short.encode_images([picture]) - theirs.numpy()).max() < 1e-5, number


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
