"""Which patches of an image are hidden in a step. Needs torch alone.

Shapes: B rows, P tokens of an image.
"""

from torch import Tensor


def hide_patches(token_BPW: Tensor, uniform_BP: Tensor, share: float, first: int) -> tuple[Tensor, Tensor]:
    """Return tokens with zeros in the place of a share of the patches, and bool [B, P], where they stand.

    first: tokens before the patches, such as [CLS], that are never hidden.
    """
    hidden_BP = uniform_BP < share
    hidden_BP[:, :first] = False
    return token_BPW.masked_fill(hidden_BP[..., None], 0.0), hidden_BP
