"""The vectors of few captions as soon as the cores can, for people who wait; encode.py's functions are for many.

On a CPU the captions are sorted by length and cut into as many parts as there are cores, of about equal work: each
part is one batch of a thread, so that no core waits and little is padded. On a GPU, and beside calls that keep the
other cores at work, they are one batch.
Shapes: T captions of L tokens, D dimensions.
"""

from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from torch import Tensor

from tuwen.core.executor import count_workers
from tuwen.data.formats.text import tokenize
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder
from tuwen.retrieval.encode import encode_tokens, use_one_thread_of_torch
from tuwen.retrieval.vectors import Vectors


def embed_few_captions(
    model: DualEncoder, tokenizer: Any, captions: list[str], shares_cores: bool = False
) -> Vectors:
    """Return the unit vectors [T, D] float32 of captions; their last bits depend on which are asked together.

    shares_cores: with calls beside this one, so that all are one batch of this thread; torch has one thread.
    """
    model.eval()
    vectors = np.empty((len(captions), model.config["dim"]), np.float32)
    if not captions:
        return vectors
    ids_TL, mask_TL = tokenize(tokenizer, captions, model.config["text"]["max_tokens"])
    if shares_cores or choose_device() != "cpu":
        return encode_tokens(model, ids_TL, mask_TL)
    lengths_T = mask_TL.sum(1)

    def fill(rows: Tensor) -> None:
        longest = int(lengths_T[rows[0]])
        vectors[rows.numpy()] = encode_tokens(model, ids_TL[rows, :longest], mask_TL[rows, :longest])

    order_T = lengths_T.argsort(descending=True, stable=True)
    sizes = split_by_work(lengths_T[order_T].tolist(), count_workers())
    with use_one_thread_of_torch(), ThreadPoolExecutor(len(sizes)) as threads:
        list(threads.map(fill, order_T.split(sizes)))
    return vectors


def split_by_work(lengths: list[int], parts: int) -> list[int]:
    """Return the sizes of at most `parts` runs of captions, so that the largest, padded, is as small as can be.

    lengths: tokens of each caption, longest first. A run costs its longest caption times its captions.
    """

    def cut(limit: int) -> list[int]:
        sizes, start = [], 0
        while start < len(lengths):
            sizes.append(limit // lengths[start])
            start += sizes[-1]
        sizes[-1] -= start - len(lengths)
        return sizes

    limits = range(lengths[0], lengths[0] * len(lengths) + 1)
    return cut(limits[bisect_left(limits, True, key=lambda limit: len(cut(limit)) <= parts)])
