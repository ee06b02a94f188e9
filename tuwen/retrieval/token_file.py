"""The tokens of images or texts on disk, in half precision: written once, then read a few rows at a time.

A row is the tokens of one image or text; a text has as many as it is long. The file is mapped and not loaded, so
that memory holds what is in use, whatever the size of the gallery.
Shapes: N rows, B rows of a block, L tokens of the longest of them, W width, T tokens of all rows.
"""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tuwen.retrieval.vectors import Rows

Tokens: TypeAlias = npt.NDArray[np.float16]  # [T, W]


class TokenFile(NamedTuple):
    """Tokens of all rows, one after another; those of row n lie from start[n] to start[n + 1]."""

    tokens: Tokens  # [T, W]
    start: Rows  # [N + 1]

    def read(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the tokens of the rows, float16 [B, L, W], filled up with zeros, and their mask [B, L]."""
        lengths = self.start[rows + 1] - self.start[rows]
        padded = np.zeros((len(rows), int(lengths.max()), self.tokens.shape[1]), np.float16)
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            padded[number, :length] = self.tokens[self.start[row] : self.start[row] + length]
        mask_BL = np.arange(padded.shape[1]) < lengths[:, None]
        return torch.from_numpy(padded), torch.from_numpy(mask_BL.astype(np.int64))


def write_token_file(folder: Path, width: int, blocks: Iterable[tuple[Tokens, Rows]]) -> TokenFile:
    """Write the tokens [T, W] of each block, with the lengths of its rows [B], and map them.

    The file lies in `folder` and has no name: it is gone with its last reader, and with a process that is killed.
    """
    lengths = [np.zeros(1, np.int64)]
    with TemporaryFile(dir=folder) as file:
        for tokens, lengths_B in blocks:
            tokens.tofile(file)
            lengths.append(lengths_B)
        return map_tokens(file, width, np.concatenate(lengths).cumsum())


def map_tokens(file: Path | IO[bytes], width: int, start: Rows) -> TokenFile:
    """Map a file of tokens, and nothing else; start [N + 1]: where the tokens of each row begin."""
    if not start[-1]:  # an empty file cannot be mapped
        return TokenFile(np.zeros((0, width), np.float16), start)
    return TokenFile(np.memmap(file, np.float16, "r", shape=(int(start[-1]), width)), start)
