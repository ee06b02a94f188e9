"""How many patches are hidden, and what never is."""

import torch

from tuwen.reranking.masking import hide_patches


def test_a_share_of_the_patches_becomes_zero_and_the_first_token_stays() -> None:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(400, 10, 3, generator=generator) + 5
    shown, hidden = hide_patches(tokens, torch.rand(400, 10, generator=generator), 0.3, 1)
    assert not hidden[:, 0].any()
    assert abs(hidden[:, 1:].float().mean().item() - 0.3) < 0.02
    assert shown[hidden].abs().max() == 0
    assert torch.equal(shown[~hidden], tokens[~hidden])
