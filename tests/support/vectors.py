"""Vectors for the tests of what searches and measures them."""

from typing import Any

import numpy as np
import numpy.typing as npt


def unit(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Rows of any length -> unit vectors, in the single precision that embeddings are stored in."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
