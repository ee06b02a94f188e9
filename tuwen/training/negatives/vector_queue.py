"""Earlier pairs that a batch is compared with: the vectors that a momentum teacher gave them.

Shapes: B pairs of all processes, Q of the queue, D dimensions.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tuwen.model.device import choose_device
from tuwen.training.loss import cut_prefix


class Queued(NamedTuple):
    """Earlier pairs: vectors [Q, D], positive_id and caption_id [Q, 2], and what each weighs [Q]."""

    image: Tensor
    text: Tensor
    ids: Tensor
    weight: Tensor

    def cut(self, dim: int) -> "Queued":
        """Return them with the first `dim` dimensions of their vectors."""
        return self._replace(image=cut_prefix(self.image, dim), text=cut_prefix(self.text, dim))


class VectorQueue:
    """The teacher's vectors of the last `size` pairs, in a ring; batches of any size go into it.

    A pair's weight halves with every `half_life` newer ones, not with every step, so that another batch size is no
    other queue.
    """

    def __init__(self, size: int, dim: int, half_life: int) -> None:
        device = choose_device()
        self._image, self._text = torch.zeros(size, dim, device=device), torch.zeros(size, dim, device=device)
        self._ids = torch.zeros(size, 2, dtype=torch.long, device=device)
        self._half_life, self._count = half_life, 0  # pairs that were ever put

    def put(self, image_BD: Tensor, text_BD: Tensor, ids_B2: Tensor) -> None:
        """Take in the newest pairs, of more than the ring holds the last ones."""
        size, rows = len(self._ids), len(ids_B2)
        first = max(0, rows - size)
        place = torch.arange(self._count + first, self._count + rows, device=ids_B2.device) % max(1, size)
        for ring, new in ((self._image, image_BD), (self._text, text_BD), (self._ids, ids_B2)):
            ring[place] = new[first:].to(ring.dtype)
        self._count += rows

    def read(self) -> Queued:
        """Return the pairs that are there."""
        size, filled = len(self._ids), min(self._count, len(self._ids))
        place = torch.arange(filled, device=self._ids.device)
        newer = (self._count - 1 - place) % max(1, size)
        weight = (0.5 ** (newer / self._half_life)).clamp(min=1e-30)  # its logarithm stays finite
        return Queued(self._image[:filled], self._text[:filled], self._ids[:filled], weight)

    def get_state(self) -> Mapping[str, Any]:
        """Return the ring, for a checkpoint."""
        return {"image": self._image, "text": self._text, "ids": self._ids, "count": self._count}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        for ring, name in ((self._image, "image"), (self._text, "text"), (self._ids, "ids")):
            ring.copy_(state[name])
        self._count = state["count"]
