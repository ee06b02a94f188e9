"""What a model makes of a set, part by part, on disk; embed.py joins and projects it.

A killed run goes on from the parts that it left. Where there are several GPUs, a process for each of them makes
its share of the parts.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from tuwen.core.progress import follow
from tuwen.data.formats import pairs
from tuwen.data.formats.text import load_tokenizer
from tuwen.model.device import choose_device, count_processes
from tuwen.model.dual_encoder import load_model
from tuwen.retrieval.encode import (
    count_block_rows,
    decode_row,
    list_image_rows,
    stream_caption_vectors,
    stream_pooled_captions,
    stream_pooled_images,
    stream_vectors,
)
from tuwen.retrieval.vectors import Vectors

_Row = TypeVar("_Row")

PART = 512  # rows kept in one file: what is held in memory, and what a kill costs at most


class VectorPart(NamedTuple):
    """A file of whole blocks of rows, but for the last one of a set."""

    path: Path
    rows: range


def make_parts(
    model_folder: Path, set_folder: Path, work: Path, batch_size: int, processes: int | None, *, pooled: bool
) -> dict[str, list[Path]]:
    """Return the files of rows in `work` that together are the set's `images` and `texts`.

    processes: as in `embed.embed_set`. pooled: what the projections read, and not unit vectors. Raises UserError
    where an image cannot be decoded.
    """
    pair_set = pairs.read_pair_set(set_folder)
    images = _list_parts(work, "images", len(pair_set.images), batch_size)
    texts = _list_parts(work, "texts", len(pair_set.texts), batch_size)
    missing = [_list_missing(parts) for parts in (images, texts)]
    make = partial(_make_share, model_folder, set_folder, batch_size, pooled)
    processes = processes or count_processes()
    if processes == 1:
        make(0, *missing)
    else:  # not forked: CUDA does not work in a fork
        shares = [[_take_share(parts, n, processes) for n in range(processes)] for parts in missing]
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(make, range(processes), *shares))
    return {"images": [part.path for part in images], "texts": [part.path for part in texts]}


def _make_share(
    model_folder: Path,
    set_folder: Path,
    batch_size: int,
    pooled: bool,
    number: int,
    images: list[VectorPart],
    texts: list[VectorPart],
) -> None:
    """Write these parts; number: of this process, from 0."""
    if choose_device() == "cuda":
        torch.cuda.set_device(number)
    model = load_model(model_folder).to(choose_device())
    tokenizer = load_tokenizer(model_folder / "vocab.txt")
    pair_set = pairs.read_pair_set(set_folder)
    rows = _take_rows(list_image_rows(pair_set), images)
    captions = [caption or "" for caption in pair_set.texts["caption"].to_pylist()]
    by_length = [_sort_by_length(captions, part) for part in texts]
    decode = partial(decode_row, set_folder.parent.parent, model.picture_rule)
    stream_images = stream_pooled_images if pooled else stream_vectors
    stream_captions = stream_pooled_captions if pooled else stream_caption_vectors
    _write_parts(images, stream_images(model, rows, decode, batch_size), "images", [part.rows for part in images])
    sorted_captions = [captions[row] for order in by_length for row in order]
    _write_parts(texts, stream_captions(model, tokenizer, sorted_captions, batch_size), "texts", by_length)


def _sort_by_length(captions: Sequence[str], part: VectorPart) -> list[int]:
    """Return the rows of a part, short captions first, so that a block has little padding: twice as fast."""
    return sorted(part.rows, key=lambda row: len(captions[row]))


def _list_parts(work: Path, name: str, rows: int, batch_size: int) -> list[VectorPart]:
    block = count_block_rows(batch_size)
    size = -(-PART // block) * block
    return [
        VectorPart(work / f"{name}-{number:06d}.npy", range(start, min(start + size, rows)))
        for number, start in enumerate(range(0, rows, size))
    ]


def _list_missing(parts: list[VectorPart]) -> list[VectorPart]:
    """Return the parts that no earlier run has left whole."""
    missing = [part for part in parts if not _is_whole(part)]
    if len(missing) < len(parts):
        rows, left = (sum(len(part.rows) for part in some) for some in (parts, missing))
        path = parts[0].path
        print(
            f"goes on after {rows - left} of {rows} {path.stem.split('-')[0]}, found in {path.parent}", flush=True
        )
    return missing


def _take_share(parts: list[VectorPart], number: int, processes: int) -> list[VectorPart]:
    return parts[len(parts) * number // processes : len(parts) * (number + 1) // processes]


def _take_rows(rows: Sequence[_Row], parts: list[VectorPart]) -> list[_Row]:
    return [rows[row] for part in parts for row in part.rows]


def _is_whole(part: VectorPart) -> bool:
    try:
        return len(np.load(part.path, mmap_mode="r")) == len(part.rows)
    except (ValueError, EOFError, OSError):  # it is not there, or the machine went down with it
        return False


def _write_parts(
    parts: list[VectorPart], blocks: Iterator[Vectors], name: str, orders: Sequence[Sequence[int]]
) -> None:
    """Write each part once its blocks are there, whole or not at all; orders: which row of the set comes when."""
    left, held = deque(zip(parts, orders, strict=True)), list[Vectors]()
    for block in follow(blocks, f"embed {name}", sum(len(part.rows) for part in parts), len):
        held.append(block)
        if sum(map(len, held)) == len(left[0][1]):
            (path, _), order = left.popleft()
            begun = path.with_name(f"begun-{path.name}")
            np.save(begun, np.concatenate(held)[np.argsort(order)])
            os.replace(begun, path)
            held = []
    assert not left
