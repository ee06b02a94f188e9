"""Whole dual encoders of transformers: ours compute what the library does, and the way back is bit-equal."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import library_models
from tests.support.checkout import ROOT
from tests.support.library_models import CAPTIONS, KINDS, SIZE_PX, TOKENS, load_ours, pin, save_library_model
from tests.support.weights import draw_pictures
from tuwen.core import params
from tuwen.core.errors import UserError
from tuwen.data.formats.images import make_pixel_tensor
from tuwen.data.formats.picture_rule import resize_by_rule
from tuwen.data.formats.text import tokenize
from tuwen.evaluation.zero_shot import make_class_vectors
from tuwen.model import dual_encoder
from tuwen.model.weights.export import export_model
from tuwen.model.weights.library import MODEL_TYPES
from tuwen.model.weights.load import load_weights
from tuwen.retrieval.retriever import load_retriever

PICTURES = draw_pictures()


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_and_logits_are_the_librarys_and_the_way_back_is_bit_equal(kind: str, tmp_path: Path) -> None:
    model, processor = save_library_model(kind, tmp_path / "theirs")
    encoder, vocabulary = load_weights(pin(tmp_path / "theirs"), SIZE_PX, TOKENS)
    dual_encoder.save_model(encoder, tmp_path / "ours", vocabulary)
    retriever = load_retriever(tmp_path / "ours")
    images, texts = retriever.encode_images(PICTURES), retriever.encode_texts(CAPTIONS)

    theirs = library_models.compute_by_library(model, processor, PICTURES, CAPTIONS)
    assert np.abs(images - theirs.image_embeds.numpy()).max() < 1e-5
    assert np.abs(texts - theirs.text_embeds.numpy()).max() < 1e-5
    assert len(np.unique(texts.round(4), axis=0)) == len(CAPTIONS)
    ours = retriever.model
    bias = 0 if ours.logit_bias is None else ours.logit_bias.item()
    logits = ours.log_scale.exp().item() * images @ texts.T + bias
    assert np.abs(logits - theirs.logits_per_image.numpy()).max() < 1e-3
    assert (ours.logit_bias is not None) == kind.startswith("siglip")

    export_model("hugging_face", tmp_path / "ours", tmp_path / "back")
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    states = [AutoModel.from_pretrained(tmp_path / name).state_dict() for name in ("theirs", "back")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    again = [AutoTokenizer.from_pretrained(tmp_path / "back")(one)["input_ids"] for one in CAPTIONS]
    assert again == [processor.tokenizer(one)["input_ids"] for one in CAPTIONS]
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "back", backend="pil")(PICTURES[0], return_tensors="pt")
    assert torch.equal(
        pixels["pixel_values"], processor.image_processor(PICTURES[0], return_tensors="pt")["pixel_values"]
    )


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


def load(folder: Path, **changes: Any) -> tuple[dual_encoder.DualEncoder, Any]:
    return load_weights(pin(folder, **changes), SIZE_PX, TOKENS)


def equal_states(left: dual_encoder.DualEncoder, right: dual_encoder.DualEncoder) -> bool:
    other = right.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in left.state_dict().items())


def test_the_projects_picture_rule_is_a_switch(tmp_path: Path) -> None:
    own, _ = load_ours("clip", tmp_path)
    assert own.picture_rule._asdict() | {"fit": "crop", "resize_px": SIZE_PX + 4} == own.picture_rule._asdict()
    project, _ = load(tmp_path, picture_rule="project")
    assert (project.picture_rule.fit, project.picture_rule.size_px) == ("project", SIZE_PX)


def test_prompts_become_class_vectors(tmp_path: Path) -> None:
    encoder, vocabulary = load_ours("siglip", tmp_path / "theirs")
    dual_encoder.save_model(encoder, tmp_path / "ours", vocabulary)
    retriever = load_retriever(tmp_path / "ours")
    vectors = make_class_vectors(retriever.model, retriever.tokenizer, ["猫", "狗"], ["{}", "一张{}的照片"])
    mean = retriever.encode_texts(["狗", "一张狗的照片"]).mean(0)
    assert np.allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_and_prefixes_of_trainers_are_read_as_meant(dtype: torch.dtype, tmp_path: Path) -> None:
    whole, _ = load_ours("clip", tmp_path)
    path = tmp_path / "model.safetensors"
    state = {f"module._orig_mod.{name}": tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(state, path)
    half, _ = load(tmp_path)
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.float32}
    for name, tensor in whole.state_dict().items():
        assert torch.equal(half.state_dict()[name], tensor.to(dtype).float()), name


def test_parts_are_read_and_pinned_by_what_sha256sum_prints(tmp_path: Path) -> None:
    whole, _ = load_ours("siglip", tmp_path)
    from transformers import AutoModel

    AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path, max_shard_size="60KB")
    (tmp_path / "model.safetensors").unlink()
    parts = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(parts) > 1
    lines = "".join(f"{hashlib.sha256(part.read_bytes()).hexdigest()}  {part.name}\n" for part in parts)
    revision = hashlib.sha256(lines.encode()).hexdigest()
    settings = {"kind": "transformers", "model": str(tmp_path), "revision": revision}
    start = params.Transformers.model_validate(settings)
    encoder, _ = load_weights(start, SIZE_PX, TOKENS)
    assert equal_states(encoder, whole)
    parts[-1].write_bytes(parts[-1].read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=rf"index\.json: expected the sha256 {revision} that .*model names, got"):
        load_weights(start, SIZE_PX, TOKENS)
    parts[0].unlink()
    with pytest.raises(UserError, match=rf"names {parts[0].name}, which are missing beside it"):
        load_weights(start, SIZE_PX, TOKENS)


def test_configs_of_before_are_read_as_meant(tmp_path: Path) -> None:
    whole, _ = load_ours("clip", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    change_config(tmp_path, text_config=None, text_config_dict=text, vision_config=None, vision_config_dict=vision)
    again, _ = load(tmp_path)
    assert equal_states(again, whole)


def test_what_a_state_lacks_or_has_too_much_is_listed(tmp_path: Path) -> None:
    save_library_model("clip", tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    wide = torch.zeros(3, 3)
    del state["logit_scale"]
    save_file(state | {"ema.decay": wide.clone(), "visual_projection.weight": wide}, path)
    with pytest.raises(UserError) as refused:
        load(tmp_path)
    message = str(refused.value)
    assert "1 missing (logit_scale); 1 unexpected (ema.decay); 1 of another shape" in message
    assert "visual_projection.weight: expected (24, 32), got (3, 3)" in message


def test_a_model_with_code_of_its_own_is_refused_by_name_with_the_reason(tmp_path: Path) -> None:
    save_library_model("clip", tmp_path)
    change_config(tmp_path, model_type="jina_clip", auto_map={"AutoModel": "modeling_clip.JinaCLIPModel"})
    with pytest.raises(
        UserError,
        match=r"got 'jina_clip', whose layers are code of its own \(modeling_clip\.JinaCLIPModel\), which",
    ):
        load(tmp_path)


def test_the_librarys_other_zero_shot_classifiers_are_refused_and_the_documentation_says_why(
    tmp_path: Path,
) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES

    others = set(MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES) - set(KINDS)
    assert set(KINDS) == set(MODEL_TYPES)
    save_library_model("clip", tmp_path)
    documented = (ROOT / "docs/weights.md").read_text(encoding="utf-8").partition("**Refused by name**")[2]
    for kind in sorted(others):
        change_config(tmp_path, model_type=kind)
        with pytest.raises(UserError, match=rf"model_type: expected one of altclip, .*, got '{kind}'"):
            load(tmp_path)
        assert f"`{kind}`" in documented, kind


def test_weights_that_could_hold_a_program_are_not_read(tmp_path: Path) -> None:
    save_library_model("clip", tmp_path)
    start = pin(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"the weights are in pytorch_model\.bin, and this kind reads safetensors"):
        load_weights(start, SIZE_PX, TOKENS)


def test_lengths_that_a_model_was_not_trained_on_are_refused(tmp_path: Path) -> None:
    save_library_model("siglip", tmp_path / "siglip")
    with pytest.raises(
        UserError, match=rf"text\.max_tokens: .*texts of {TOKENS} tokens, padding included, .*got 12"
    ):
        load_weights(pin(tmp_path / "siglip"), SIZE_PX, 12)
    save_library_model("altclip", tmp_path / "altclip")
    with pytest.raises(UserError, match=rf"text\.max_tokens: .*{TOKENS} positions, expected that at most, got 17"):
        load_weights(pin(tmp_path / "altclip"), SIZE_PX, 17)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_librarys_model_is_written_for_torch_alone(kind: str, tmp_path: Path) -> None:
    encoder, vocabulary = load_ours(kind, tmp_path / "theirs")
    dual_encoder.save_model(encoder, tmp_path / "ours", vocabulary)
    retriever = load_retriever(tmp_path / "ours")
    export_model("torch", tmp_path / "ours", tmp_path / "out")
    assert (tmp_path / "out/tokenizer/tokenizer_config.json").is_file()
    texts, images = (torch.export.load(tmp_path / f"out/{side}.pt2").module() for side in ("text", "image"))
    ids, mask = tokenize(retriever.tokenizer, CAPTIONS, TOKENS)
    assert np.abs(texts(ids, mask).detach().numpy() - retriever.encode_texts(CAPTIONS)).max() < 1e-5
    pixels = make_pixel_tensor([resize_by_rule(picture, encoder.picture_rule) for picture in PICTURES])
    assert np.abs(images(pixels).detach().numpy() - retriever.encode_images(PICTURES)).max() < 1e-5


def test_positions_of_every_picture_are_not_written_for_torch_alone(tmp_path: Path) -> None:
    encoder, vocabulary = load_ours("siglip2", tmp_path / "theirs")
    dual_encoder.save_model(encoder, tmp_path / "ours", vocabulary)
    with pytest.raises(UserError, match="cannot be written as torch: its positions are interpolated for each"):
        export_model("torch", tmp_path / "ours", tmp_path / "out")
