"""Which words are hidden, how many of them, and what never is."""

import pytest
import torch

from tuwen.core.errors import UserError
from tuwen.data.formats.text import build_vocabulary
from tuwen.data.formats.tokens.library_tokenizer import TokenizerFiles
from tuwen.training.distillation.hidden_words import HiddenWords, find_words, hide_words

WORDS = HiddenWords(mask=4, special=(0, 2, 3))


def test_a_share_of_the_words_is_hidden_all_by_the_mask_and_never_what_is_special() -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 50, (500, 12), generator=generator)
    ids[:, 0], ids[:, 8], ids[:, 9:] = 2, 3, 0
    shown, hidden = hide_words(ids, torch.rand(500, 12, generator=generator), 0.15, WORDS)
    assert not hidden[:, [0, 8, 9, 10, 11]].any()
    assert abs(hidden[:, 1:8].float().mean().item() - 0.15) < 0.01
    assert (shown[hidden] == WORDS.mask).all()
    assert torch.equal(shown[~hidden], ids[~hidden])


def test_the_tokens_of_bert_are_found_wherever_they_stand() -> None:
    assert find_words(build_vocabulary(["橘猫"]), "here") == HiddenWords(4, (0, 1, 2, 3, 4))
    assert find_words(["猫", "[SEP]", "[MASK]", "[PAD]"], "here") == HiddenWords(2, (3, 1, 2))


@pytest.mark.parametrize("vocabulary", [["[PAD]", "猫"], TokenizerFiles({"tokenizer.json": b"{}"})])
def test_a_vocabulary_without_the_mask_is_refused_by_name(vocabulary: list[str] | TokenizerFiles) -> None:
    with pytest.raises(UserError, match=r"^here has no \[MASK\], by which words are hidden; take a model"):
        find_words(vocabulary, "here")
