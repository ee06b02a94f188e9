"""Maps over patches against the gradient by weights that are written out, in all four fusions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from tests.support.weights import stir
from tuwen.core.errors import UserError
from tuwen.data.formats.images import make_pixel_tensor
from tuwen.data.formats.text import SPECIAL_TOKENS, make_tokenizer, tokenize
from tuwen.model.architectures import make_bert_config, make_vit_config
from tuwen.model.attention_map import explain_no_map, map_attention
from tuwen.model.cross_encoder import FUSIONS, CrossEncoder
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.reranker import make_cross_encoder

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


COLOURS = {
    "红": "red",
    "蓝": "blue",
    "绿": "green",
    "黄": "gold",
    "紫": "purple",
    "灰": "gray",
    "青": "cyan",
    "棕": "brown",
}
THINGS = [colour + shape for colour in COLOURS for shape in "圆方"]  # discs and squares
CELLS, CELL_PX, SHOWN = 3, 8, 4  # a picture is 3 × 3 cells, and four of them hold a thing each


def draw_things(things: list[str], draw: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return uint8 [24, 24, 3], and the row and column of each thing."""
    places = [divmod(int(cell), CELLS) for cell in draw.permutation(CELLS**2)[: len(things)]]
    image = Image.new("RGB", (CELLS * CELL_PX,) * 2, "white")
    pen = ImageDraw.Draw(image)
    for (colour, shape), (row, column) in zip(things, places, strict=True):
        left, top = column * CELL_PX, row * CELL_PX
        shapes = {"圆": pen.ellipse, "方": pen.rectangle}
        shapes[shape]((left, top, left + CELL_PX - 1, top + CELL_PX - 1), fill=COLOURS[colour])
    return np.asarray(image), places


def learn_things(steps: int) -> tuple[DualEncoder, CrossEncoder, Any]:
    """Train layers over towers with random weights to say whether the thing of a caption is in a picture."""
    torch.manual_seed(1)
    draw, vocabulary = np.random.default_rng(1), [*SPECIAL_TOKENS, *COLOURS, "圆", "方"]
    image, text = make_vit_config(CELLS * CELL_PX, CELL_PX, 64, 1), make_bert_config(64, 1, 8, 8)
    dual = DualEncoder({"dim": 16, "image": image, "text": text, "vocabulary": len(vocabulary)}).eval()
    shape = {"layers": 2, "width": 64, "heads": 2, "mlp": 128, "dropout": 0.0, "image_tokens": None}
    cross, tokenizer = make_cross_encoder(dual, {"fusion": "text_image", **shape}), make_tokenizer(vocabulary)
    shown = [draw.permutation(THINGS)[:SHOWN].tolist() for _ in range(500)]
    ids, mask = tokenize(tokenizer, THINGS, 8)
    with torch.no_grad():
        tokens = dual.encode_image_tokens(make_pixel_tensor([draw_things(things, draw)[0] for things in shown]))[1]
        states = dual.encode_text_tokens(ids, mask)[1]
    optimizer = torch.optim.AdamW(cross.parameters(), 1.5e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps, pct_start=0.05)
    match = torch.arange(64) % 2
    for _ in range(steps):
        chosen = draw.integers(0, len(shown), len(match))
        others = [[name for name in THINGS if name not in shown[n]] for n in chosen]
        named = [draw.choice(shown[n] if y else rest) for n, y, rest in zip(chosen, match, others, strict=True)]
        rows = [THINGS.index(name) for name in named]
        loss = nn.functional.cross_entropy(cross(tokens[chosen], states[rows], mask[rows]).match, match)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(cross.parameters(), 1.0)
        optimizer.step()
        rates.step()
    assert loss.item() < 0.3, "the re-ranker has not learned its task, of which the map says something"
    return dual, cross.eval(), tokenizer


def test_the_map_of_a_things_name_lies_on_the_thing() -> None:
    """A red disc and a blue square among four things: a ninth of a map lies on each of nine places by chance."""
    dual, cross, tokenizer = learn_things(800)
    draw, share = np.random.default_rng(2), {"红圆": list[float](), "蓝方": list[float]()}
    for _ in range(40):
        others = [name for name in THINGS if name not in share]
        square, places = draw_things([*share, *draw.permutation(others)[: SHOWN - 2].tolist()], draw)
        for name, (row, column) in zip(share, places, strict=False):
            ids, mask = tokenize(tokenizer, [name], 8)
            with torch.no_grad():
                image = dual.encode_image_tokens(make_pixel_tensor([square]))[1][0]
                text = dual.encode_text_tokens(ids, mask)[1][0]
            map_SS = map_attention(cross, image, text)[1:3].mean(0)  # of colour and shape, not of [CLS] and [SEP]
            share[name].append((map_SS[row, column] / map_SS.sum().clamp(min=1e-30)).item())
    for values in share.values():
        assert np.mean(values) >= 2 / CELLS**2
