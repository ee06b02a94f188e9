"""What is hidden, how often, and what never is."""

import torch

from tuwen.reranking.masking import hide_patches, hide_words

SPECIAL, MASK = torch.tensor([0, 2, 3]), 4


def test_a_share_of_the_words_is_hidden_all_by_the_mask_and_never_what_is_special() -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 50, (500, 12), generator=generator)
    ids[:, 0], ids[:, 8], ids[:, 9:] = 2, 3, 0
    shown, hidden = hide_words(ids, torch.rand(500, 12, generator=generator), 0.15, SPECIAL, MASK)
    assert not hidden[:, [0, 8, 9, 10, 11]].any()
    assert abs(hidden[:, 1:8].float().mean().item() - 0.15) < 0.01
    assert (shown[hidden] == MASK).all()
    assert torch.equal(shown[~hidden], ids[~hidden])


def test_a_share_of_the_patches_becomes_zero_and_the_first_token_stays() -> None:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(400, 10, 3, generator=generator) + 5
    shown, hidden = hide_patches(tokens, torch.rand(400, 10, generator=generator), 0.3, 1)
    assert not hidden[:, 0].any()
    assert abs(hidden[:, 1:].float().mean().item() - 0.3) < 0.02
    assert shown[hidden].abs().max() == 0
    assert torch.equal(shown[~hidden], tokens[~hidden])
