"""Vectors for the tests of search and measurement."""

from typing import Any

import numpy as np
import numpy.typing as npt


def unit(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Divide rows by their lengths, in the single precision that embeddings are stored in."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
