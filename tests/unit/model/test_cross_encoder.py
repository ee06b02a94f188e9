"""The four fusions: what reads what, at the start and later, and what the layers return."""

import pytest
import torch

from tests.support.weights import stir
from tuwen.core.errors import UserError
from tuwen.model.cross_encoder import FUSIONS, TWO_STREAMS, CrossEncoder

IMAGES, TOKENS, IMAGE_WIDTH, TEXT_WIDTH, WIDTH, LENGTH = 3, 17, 96, 64, 128, 7
CONFIG = {
    "layers": 2,
    "width": WIDTH,
    "heads": 2,
    "mlp": 192,
    "dropout": 0.1,
    "image": {"tokens": TOKENS, "width": IMAGE_WIDTH},
    "text": {"width": TEXT_WIDTH},
    "dim": 16,
    "vocabulary": 20,
    "image_tokens": None,
}
WITH_CROSS_ATTENTION = [fusion for fusion in FUSIONS if fusion != "joint"]


def make_cross(fusion: str, **changes) -> CrossEncoder:
    torch.manual_seed(0)
    return CrossEncoder({**CONFIG, "fusion": fusion, **changes}).eval()


def draw_pairs(pairs: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens of three images, of the texts of the pairs, their mask, and the image of each pair."""
    draw = torch.Generator().manual_seed(1)
    mask = torch.ones(pairs, LENGTH, dtype=torch.long)
    mask[1, 4:], mask[2, 1:] = 0, 0
    image = torch.randn(IMAGES, TOKENS, IMAGE_WIDTH, generator=draw)
    text = torch.randn(pairs, LENGTH, TEXT_WIDTH, generator=draw)
    return image, text, mask, torch.tensor([2, 0, 0, 1])[:pairs]


@pytest.mark.parametrize("compressed", [None, {"count": 5, "width": 64}])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_part_has_its_shape(fusion: str, compressed) -> None:
    cross = stir(make_cross(fusion, image_tokens=compressed))
    image, text, mask, row = draw_pairs()
    stored = cross.compress_image(image)
    kept = (5, 64) if compressed else (TOKENS, IMAGE_WIDTH)
    assert stored.shape == (IMAGES, *kept)
    assert compressed or stored is image
    output = cross(stored, text, mask, row)
    assert output.match.shape == (4, 2)
    assert output.text.shape == (4, LENGTH, WIDTH)
    assert output.feature.shape == (4, WIDTH)
    assert len(output.heads) == 1 + (fusion in TWO_STREAMS)
    assert cross.predict_tokens(output.text).shape == (4, LENGTH, 20)
    assert cross.recover_text(output.feature).shape == (4, 16)
    if fusion == "text_image":
        assert output.image is None
    else:
        assert output.image.shape == (4, kept[0], WIDTH)
        assert cross.predict_patches(output.image).shape == stored[row].shape


@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_image_with_many_texts_is_as_one_image_each(fusion: str) -> None:
    cross = stir(make_cross(fusion))
    image, text, mask, row = draw_pairs()
    shared, apart = cross(image, text, mask, row), cross(image[row], text, mask)
    torch.testing.assert_close(shared.match, apart.match, atol=1e-5, rtol=0)
    torch.testing.assert_close(shared.text, apart.text, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_score_alone_is_that_of_the_whole(fusion: str) -> None:
    cross = stir(make_cross(fusion))
    image, text, mask, row = draw_pairs()
    output = cross(image, text, mask, row)
    expected = torch.stack([logits.softmax(-1)[:, 1] for logits in output.heads]).mean(0)
    torch.testing.assert_close(cross.score_matches(output), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(cross.score_pairs(image, text, mask, row), expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.01


@pytest.mark.parametrize("fusion", FUSIONS)
def test_padding_changes_nothing(fusion: str) -> None:
    cross = stir(make_cross(fusion))
    image, text, mask, row = draw_pairs()
    alone = cross(image[row[1:2]], text[1:2, :4], mask[1:2, :4])
    beside = cross(image, text, mask, row)
    torch.testing.assert_close(beside.match[1:2], alone.match, atol=1e-5, rtol=0)
    torch.testing.assert_close(beside.text[1:2, :4], alone.text, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fusion", WITH_CROSS_ATTENTION)
def test_at_the_start_the_text_does_not_see_the_image(fusion: str) -> None:
    cross = make_cross(fusion)
    image, text, mask, row = draw_pairs()
    first, second = (cross(tokens, text, mask, row) for tokens in (image, torch.randn_like(image)))
    assert torch.equal(first.text, second.text)
    assert torch.equal(first.heads[0], second.heads[0])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_later_every_stream_sees_the_other(fusion: str) -> None:
    cross = stir(make_cross(fusion))
    image, text, mask, row = draw_pairs()
    image.requires_grad_()
    text.requires_grad_()
    output = cross(image, text, mask, row)
    of_image, of_text = torch.autograd.grad(output.text[:, 0].pow(2).sum(), (image, text), retain_graph=True)
    assert (of_image.abs().sum(-1) > 0).all()
    assert ((of_text.abs().sum(-1) > 0) == mask.bool()).all()
    if output.image is not None:
        of_image, of_text = torch.autograd.grad(output.image[:, 0].pow(2).sum(), (image, text))
        assert (of_image.abs().sum(-1) > 0).all()
        assert ((of_text.abs().sum(-1) > 0) == mask.bool()).all()


def test_streams_that_exchange_read_what_the_other_has_become() -> None:
    """In `both` the text reads the tower's tokens at every layer: the image's stream does not change it."""
    image, text, mask, row = draw_pairs()
    for fusion, same in (("both", True), ("co_attention", False)):
        cross = stir(make_cross(fusion))
        before = cross(image, text, mask, row)
        with torch.no_grad():
            cross.image_blocks[0].fc2.bias.add_(torch.arange(WIDTH) / WIDTH)
        after = cross(image, text, mask, row)
        assert torch.equal(before.text, after.text) is same
        assert not torch.equal(before.image, after.image)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"fusion": "early"}, "fusion: expected one of both, text_image, co_attention, joint, got 'early'"),
        ({"fusion": "both", "heads": 3}, "heads: 3 cannot share the width 128 evenly"),
        (
            {"fusion": "joint", "image_tokens": {"count": 4, "width": 129}},
            "image_tokens.width: expected a multiple of 64, got 129",
        ),
    ],
)
def test_a_form_that_cannot_be_is_refused(changes, fault: str) -> None:
    with pytest.raises(UserError) as raised:
        make_cross(**changes)
    assert str(raised.value) == fault


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_layers_learn_which_pairs_match(fusion: str) -> None:
    """Three images, three texts: each text fits one image, which no text alone could tell."""
    torch.manual_seed(0)
    cross = CrossEncoder({**CONFIG, "fusion": fusion, "dropout": 0.0})
    image, text = torch.randn(3, TOKENS, IMAGE_WIDTH), torch.randn(3, LENGTH, TEXT_WIDTH)
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    match = (pairs[:, 0] == pairs[:, 1]).long()
    given = (image, text[pairs[:, 1]], torch.ones(9, LENGTH), pairs[:, 0])
    optimizer = torch.optim.AdamW(cross.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = sum(torch.nn.functional.cross_entropy(logits, match) for logits in cross(*given).heads)
        loss.backward()
        optimizer.step()
    assert ((cross.eval().score_pairs(*given) > 0.5) == match.bool()).all()
