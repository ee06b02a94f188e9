"""The model as a whole, and its folder."""

import json
import re

import pytest
import torch

from tuwen.core.errors import UserError
from tuwen.data.formats.images import MEAN, STD
from tuwen.model import architectures, dual_encoder

CONFIG = {
    "dim": 16,
    "image": {"size_px": 16, "patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.5},
    "text": {"width": 64, "layers": 1, "dropout": 0.0, "max_tokens": 12},
    "vocabulary": 20,
}


@pytest.fixture
def encoder() -> dual_encoder.DualEncoder:
    torch.manual_seed(0)
    return dual_encoder.DualEncoder(CONFIG).eval()


def test_both_towers_give_unit_vectors_of_the_common_space(encoder) -> None:
    image = encoder.encode_image(torch.randn(3, 3, 16, 16))
    text = encoder.encode_text(torch.randint(5, 20, (2, 7)), torch.ones(2, 7, dtype=torch.long))
    assert image.shape == (3, 16)
    assert text.shape == (2, 16)
    for vectors in (image, text):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(vectors)))


@pytest.mark.gpu
def test_a_gpu_gives_the_vectors_of_the_cpu(encoder) -> None:
    pixels, ids = torch.randn(3, 3, 16, 16), torch.randint(5, 20, (2, 7))
    expected = encoder.encode_image(pixels), encoder.encode_text(ids, torch.ones_like(ids))
    encoder.cuda()
    image, text = encoder.encode_image(pixels.cuda()), encoder.encode_text(ids.cuda(), torch.ones_like(ids).cuda())
    for found, vectors in zip((image, text), expected, strict=True):
        torch.testing.assert_close(found.cpu(), vectors, atol=1e-4, rtol=1e-4)


def test_vectors_of_tokens_that_are_at_hand_give_the_same_text(encoder) -> None:
    ids, mask = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    assert torch.equal(encoder.encode_text(ids, mask, encoder.embed_tokens(ids)), encoder.encode_text(ids, mask))


def test_the_names_of_the_tensors_are_listed_without_a_draw(encoder) -> None:
    state = torch.get_rng_state()
    assert dual_encoder.list_tensors(CONFIG) == list(encoder.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


def test_padding_does_not_change_a_text(encoder) -> None:
    ids = torch.tensor([[2, 7, 8, 3]])
    padded = torch.tensor([[2, 7, 8, 3, 0, 0]])
    alone = encoder.encode_text(ids, torch.ones_like(ids))
    beside = encoder.encode_text(padded, (padded != 0).long())
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=0)


def test_patches_are_left_out_while_training_alone(encoder) -> None:
    pixels = torch.randn(2, 3, 16, 16)
    assert torch.equal(encoder.encode_image(pixels), encoder.encode_image(pixels))
    encoder.train()
    assert not torch.equal(encoder.encode_image(pixels), encoder.encode_image(pixels))


def test_the_scale_is_clamped(encoder) -> None:
    assert encoder.scale.item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        encoder.log_scale.fill_(50.0)
    assert encoder.scale.item() == pytest.approx(100.0)


def test_what_is_saved_is_loaded_bit_for_bit(encoder, tmp_path) -> None:
    vocabulary = ["[PAD]", "[UNK]", "大", "熊", "猫"]
    dual_encoder.save_model(encoder, tmp_path, vocabulary)
    again = dual_encoder.load_model(tmp_path)
    assert not again.training
    assert dual_encoder.read_vocabulary(tmp_path) == vocabulary
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    first = (tmp_path / "model.safetensors").read_bytes()
    dual_encoder.save_model(again, tmp_path, vocabulary)
    assert (tmp_path / "model.safetensors").read_bytes() == first


@pytest.fixture
def folder(encoder, tmp_path):
    dual_encoder.save_model(encoder, tmp_path, ["[PAD]", "[UNK]"])
    return tmp_path


def change(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("name", ["config.json", "preprocessor.json", "model.safetensors", "vocab.txt"])
def test_a_missing_file_is_named(folder, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{re.escape(str(folder / name))}: missing"):
        dual_encoder.load_model(folder)


def test_weights_of_another_shape_are_listed_and_nothing_is_loaded(folder) -> None:
    change(folder / "config.json", dim=32)
    with pytest.raises(
        UserError, match=r"nothing was loaded: 2 of another shape .*expected \(32, 64\), got \(16, 64\)"
    ):
        dual_encoder.load_model(folder)


def test_a_file_that_is_cut_or_disagrees_is_named(folder) -> None:
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"model\.safetensors: no readable weights"):
        dual_encoder.load_model(folder)
    change(folder / "preprocessor.json", image={"size_px": 24})
    with pytest.raises(UserError, match=r"preprocessor\.json: is not what config\.json says"):
        dual_encoder.load_model(folder)
    (folder / "vocab.txt").write_text("字\n" * 21)
    change(folder / "config.json", vocabulary=20)
    (folder / "preprocessor.json").write_text(json.dumps(dual_encoder._make_preprocessor(CONFIG)))
    with pytest.raises(UserError, match=r"vocab\.txt: expected 20 tokens at most.* got 21"):
        dual_encoder.load_model(folder)
    change(folder / "config.json", image={"kind": "vitt"})
    with pytest.raises(UserError, match=r"image\.kind: expected one of vit, .*, got 'vitt'"):
        dual_encoder.load_model(folder)


def test_a_token_that_looks_like_the_end_of_a_line_keeps_the_others_in_place(encoder, tmp_path) -> None:
    vocabulary = ["[PAD]", "\u2028", "猫"]  # BERT's Chinese vocabulary has it
    dual_encoder.save_model(encoder, tmp_path, vocabulary)
    assert dual_encoder.read_vocabulary(tmp_path) == vocabulary


def make_small(**image) -> dual_encoder.DualEncoder:
    """Make a Chinese-CLIP in small."""
    torch.manual_seed(1)
    config = {
        "dim": 16,
        "image": architectures.make_vit_config(16, 8, 64, 2) | image,
        "text": architectures.make_bert_config(64, 2, max_tokens=12, positions=16) | {"dropout": 0.0},
        "vocabulary": 20,
    }
    return dual_encoder.DualEncoder(config)


def test_pixels_in_clips_form_become_the_models_own() -> None:
    plain, own = make_small(), make_small(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
    pixels = torch.rand(2, 3, 16, 16)
    clip = (pixels - torch.tensor(MEAN)[:, None, None] / 255) / (torch.tensor(STD)[:, None, None] / 255)
    wanted = plain.eval().encode_image((pixels - 0.5) / 0.5)
    torch.testing.assert_close(own.eval().encode_image(clip), wanted, atol=2e-6, rtol=0)


def compute_gradients(encoder: dual_encoder.DualEncoder) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    encoder.zero_grad()
    image = encoder.encode_image(torch.randn(3, 3, 16, 16))
    text = encoder.encode_text(torch.randint(5, 20, (3, 7)), torch.ones(3, 7, dtype=torch.long))
    (image @ text.T).square().sum().backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("image", [{}, {"patch_dropout": 0.5}])
def test_checkpointing_keeps_the_gradients_and_computes_the_blocks_twice(image) -> None:
    encoder = make_small(**image).train()
    for module in encoder.text_tower.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1  # what is drawn must be drawn again
    calls = []
    for block in (encoder.image_tower.layer[0].qkv, encoder.text_tower.encoder.layer[0].intermediate.dense):
        block.register_forward_hook(lambda *_: calls.append(1))
    plain = compute_gradients(encoder)
    assert len(calls) == 2
    encoder.set_gradient_checkpointing(True)
    again = compute_gradients(encoder)
    assert len(calls) == 2 + 4
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        assert torch.equal(gradient, again[name]), name
    encoder.set_gradient_checkpointing(False)
    compute_gradients(encoder)
    assert len(calls) == 2 + 4 + 2
