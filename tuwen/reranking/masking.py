"""Which tokens of a text, and which patches of an image, are hidden in a step.

Shapes: B rows, L positions of a text, P tokens of an image. Needs torch alone.
"""

import torch
from torch import Tensor


def hide_words(
    ids_BL: Tensor, uniform_BL: Tensor, share: float, special: Tensor, mask_id: int
) -> tuple[Tensor, Tensor]:
    """Return ids with [MASK] in the place of a share of the tokens, and bool [B, L], where it stands.

    special: ids that are never hidden, such as [CLS] and [PAD]. uniform_BL: numbers in [0, 1) that decide it. All
    that are chosen become [MASK], none another token (R2D2, section 3.2).
    """
    hidden_BL = (uniform_BL < share) & ~torch.isin(ids_BL, special)
    return ids_BL.masked_fill(hidden_BL, mask_id), hidden_BL


def hide_patches(token_BPW: Tensor, uniform_BP: Tensor, share: float, first: int) -> tuple[Tensor, Tensor]:
    """Return tokens with zeros in the place of a share of the patches, and bool [B, P], where they stand.

    first: tokens before the patches, such as [CLS], that are never hidden.
    """
    hidden_BP = uniform_BP < share
    hidden_BP[:, :first] = False
    return token_BPW.masked_fill(hidden_BP[..., None], 0.0), hidden_BP
