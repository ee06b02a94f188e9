"""Which tokens of a text are hidden in a step. Shapes: B texts, L positions."""

from typing import NamedTuple

import torch
from torch import Tensor

from tuwen.core.errors import UserError
from tuwen.data.formats.text import SPECIAL_TOKENS, Vocabulary


class HiddenWords(NamedTuple):
    """The token that stands for a hidden word, and those that are never hidden."""

    mask: int
    special: tuple[int, ...]


def find_words(vocabulary: Vocabulary, place: str) -> HiddenWords:
    """Return the numbers of the tokens of BERT.

    Raises UserError, which begins with `place`, where [MASK] is missing.
    """
    numbers = {token: number for number, token in enumerate(vocabulary)} if isinstance(vocabulary, list) else {}
    if "[MASK]" not in numbers:
        raise UserError(f"{place} has no [MASK], by which words are hidden; take a model with BERT's vocabulary")
    return HiddenWords(numbers["[MASK]"], tuple(numbers[token] for token in SPECIAL_TOKENS if token in numbers))


def hide_words(ids_BL: Tensor, uniform_BL: Tensor, share: float, words: HiddenWords) -> tuple[Tensor, Tensor]:
    """Return ids with [MASK] in the place of a share of the tokens, and bool [B, L], where it stands.

    uniform_BL: numbers in [0, 1) that decide it. All that are chosen become [MASK], none another token (R2D2,
    section 3.2).
    """
    special = torch.tensor(words.special, device=ids_BL.device)
    hidden_BL = (uniform_BL.to(ids_BL.device) < share) & ~torch.isin(ids_BL, special)
    return ids_BL.masked_fill(hidden_BL, words.mask), hidden_BL
