import json

import pytest
import torch

from tuwen import model
from tuwen.errors import UserError

CONFIG = {
    "dim": 16,
    "image": {"size_px": 16, "patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.5},
    "text": {"width": 64, "layers": 1, "dropout": 0.0, "max_tokens": 12},
    "vocabulary": 20,
}


@pytest.fixture
def encoder() -> model.DualEncoder:
    torch.manual_seed(0)
    return model.DualEncoder(CONFIG).eval()


def test_both_towers_give_unit_vectors_of_the_common_space(encoder) -> None:
    image = encoder.encode_image(torch.randn(3, 3, 16, 16))
    text = encoder.encode_text(torch.randint(5, 20, (2, 7)), torch.ones(2, 7, dtype=torch.long))
    assert image.shape == (3, 16)
    assert text.shape == (2, 16)
    for vectors in (image, text):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(vectors)))
    score_IT = model.match(image, text)
    assert score_IT.shape == (3, 2)
    assert score_IT.abs().max() <= 1 + 1e-6


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
    model.save(encoder, tmp_path, vocabulary)
    again = model.load(tmp_path)
    assert not again.training
    assert model.read_vocabulary(tmp_path) == vocabulary
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    first = (tmp_path / "model.safetensors").read_bytes()
    model.save(again, tmp_path, vocabulary)
    assert (tmp_path / "model.safetensors").read_bytes() == first


def test_a_model_that_is_missing_or_does_not_fit_is_refused(encoder, tmp_path) -> None:
    with pytest.raises(UserError, match=r"config\.json: missing"):
        model.load(tmp_path)
    model.save(encoder, tmp_path, ["[PAD]"])
    wider = json.loads((tmp_path / "config.json").read_text()) | {"dim": 32}
    (tmp_path / "config.json").write_text(json.dumps(wider))
    with pytest.raises(UserError, match="cannot be loaded"):
        model.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot be loaded"):
        model.load(tmp_path)
