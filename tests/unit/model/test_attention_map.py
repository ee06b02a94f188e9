"""Maps over patches against the gradient by weights that are written out, in all four fusions."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.support.weights import stir
from tuwen.core.errors import UserError
from tuwen.model.attention_map import explain_no_map, map_attention
from tuwen.model.cross_encoder import FUSIONS, CrossEncoder

SIDE, WIDTH, TEXT_WIDTH, LENGTH = 4, 128, 64, 5
CONFIG = {
    **{"layers": 3, "width": WIDTH, "heads": 2, "mlp": 192, "dropout": 0.1, "dim": 16, "vocabulary": 20},
    **{"image": {"tokens": 1 + SIDE**2, "width": 96}, "text": {"width": TEXT_WIDTH}, "image_tokens": None},
}


def make_cross(fusion: str, **changes: object) -> CrossEncoder:
    torch.manual_seed(0)
    return stir(CrossEncoder({**CONFIG, "fusion": fusion, **changes}).eval())


def draw_pair() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    image = torch.randn(1 + SIDE**2, CONFIG["image"]["width"], generator=draw)
    return image, torch.randn(LENGTH, TEXT_WIDTH, generator=draw)


def differentiate(cross: CrossEncoder, image: Tensor, text: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Return weight × max(0, gradient), [L, K], by a softmax that stands in for torch's own, and its gradients."""
    weights = []

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        assert dropout == 0
        score = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        weight = (score if mask is None else score.masked_fill(~mask, -torch.inf)).softmax(-1)
        weights.append(weight)
        return weight @ value

    stored = cross.compress_image(image[None])
    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "scaled_dot_product_attention", attend)
        heads = cross(stored, text[None], torch.ones(1, LENGTH)).heads
    # of each block the first attention is its own, then its other one; `co_attention` runs both streams in turn
    strides = {"both": (1, 2), "text_image": (1, 2), "co_attention": (1, 4), "joint": (0, 1)}
    first, stride = strides[cross.fusion]
    read = weights[first : CONFIG["layers"] * stride : stride]
    gradients = torch.autograd.grad(sum(head[0, 1] - head[0, 0] for head in heads), read)
    layers = [(weight * by.clamp_min(0))[0].mean(0) for weight, by in zip(read, gradients, strict=True)]
    assert not layers[-1][1:].any()  # of the last one the first position alone is judged
    return sum(layers)[:LENGTH, -stored.shape[1] :].detach()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_map_is_the_weight_times_its_gradient(fusion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cross, (image, text) = make_cross(fusion), draw_pair()
    before = cross(image[None], text[None], torch.ones(1, LENGTH)).match
    expected = differentiate(cross, image, text, monkeypatch)
    found = map_attention(cross, image, text)
    assert found.shape == (LENGTH, SIDE, SIDE)
    torch.testing.assert_close(found.flatten(1), expected[:, 1:], atol=1e-6, rtol=1e-4)
    assert (found.flatten(1).amax(1) > 1e-4).all()
    assert torch.equal(cross(image[None], text[None], torch.ones(1, LENGTH)).match, before)


def test_frozen_weights_and_tokens_made_without_gradients_give_the_same_map() -> None:
    cross, (image, text) = make_cross("both"), draw_pair()
    expected = map_attention(cross, image, text)
    cross.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(map_attention(cross, image, text), expected)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_compressed_token_passes_its_part_on_to_what_it_was_made_of(
    fusion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cross, (image, text) = make_cross(fusion, image_tokens={"count": 3, "width": 64}), draw_pair()
    of_stored = differentiate(cross, image, text, monkeypatch)
    assert of_stored.shape == (LENGTH, 3)
    attention = cross.compressor.attention
    score = attention.query(cross.compressor.queries) @ attention.key_value(image)[:, :64].T / math.sqrt(64)
    expected = of_stored @ score.softmax(-1)
    torch.testing.assert_close(
        map_attention(cross, image, text).flatten(1), expected[:, 1:].detach(), atol=1e-6, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"layers": 1}, "a map needs a re-ranker of two layers or more: the last judges"),
        ({"image": {"tokens": 13, "width": 96}}, "a map needs patches in a square, and this picture tower has 12"),
    ],
)
def test_where_there_is_no_map_the_reason_is_told(changes: dict[str, object], fault: str) -> None:
    cross, (image, text) = make_cross("both", **changes), draw_pair()
    assert explain_no_map(cross).startswith(fault)
    with pytest.raises(UserError, match=fault):
        map_attention(cross, image, text)
    assert explain_no_map(make_cross("both")) == ""
