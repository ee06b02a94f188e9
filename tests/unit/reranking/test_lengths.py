"""Pairs read in groups of one length: what the pass over all of them says, and so its gradients."""

import pytest
import torch

from tests.support.reranking import DUAL, ROWS, make_batch, make_parts, make_settings, record_read
from tuwen.model.cross_encoder import FUSIONS
from tuwen.reranking.encoded import encode_batch
from tuwen.reranking.lengths import read_by_length


@pytest.mark.parametrize("compressed", [None, {"count": 3, "width": 64}])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_groups_of_one_length_say_what_one_pass_does(fusion: str, compressed: dict[str, int] | None) -> None:
    settings = make_settings(fusion=fusion, image_tokens=compressed)
    dual, cross, _ = make_parts(settings)
    batch, image = make_batch(1), torch.arange(ROWS).flip(0)
    with torch.no_grad():
        tokens = dual.encode_image_tokens(batch.pixels)[1]
        text = dual.encode_text_tokens(batch.ids, batch.mask)[1]
    given = (text, batch.mask, image)
    whole, grouped = cross(cross.compress_image(tokens), *given), read_by_length(cross, tokens, *given)
    counts = batch.mask.bool()
    gradients = []
    for out in (whole, grouped):
        cross.zero_grad()
        heads = sum(head.square().sum() for head in out.heads)
        (heads + out.match.sum() + 0.1 * out.feature.square().sum() + 0.1 * out.text[counts].sum()).backward()
        gradients.append({name: p.grad.clone() for name, p in cross.named_parameters() if p.grad is not None})
    for name in ("match", "feature"):
        torch.testing.assert_close(getattr(grouped, name), getattr(whole, name), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(grouped.text[counts], whole.text[counts], atol=1e-6, rtol=1e-6)
    assert not grouped.text[~counts & (torch.arange(10) >= 9)].any()
    for one, other in zip(grouped.heads, whole.heads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-5)


def test_the_towers_texts_are_those_of_one_pass() -> None:
    dual, _, _ = make_parts(make_settings(), DUAL)
    batch = make_batch(1)
    with torch.no_grad():
        encoded = encode_batch(dual, batch.pixels, batch.ids, batch.mask, batch.ids)
        vectors, states = dual.encode_text_tokens(batch.ids, batch.mask)
    torch.testing.assert_close(encoded.text, vectors, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoded.whole[batch.mask.bool()], states[batch.mask.bool()], atol=1e-6, rtol=1e-6)


def test_short_texts_are_not_padded_to_the_longest() -> None:
    _, cross, objective = make_parts(make_settings(fusion="text_image"))
    lengths: list[int] = []
    cross.register_forward_pre_hook(lambda _, given: lengths.append(given[1].shape[1]))
    own = record_read(cross, objective, make_batch(1))["mask"].sum(1).sort().values
    assert lengths == [part[-1].item() for part in own.split(5)]  # an eighth of 36 pairs
    assert lengths[0] < lengths[-1] == 9
