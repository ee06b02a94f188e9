"""A set -> its vectors on disk, in the order of its tables: `images.npy` and `texts.npy`.

A killed run goes on from the parts that it left in `.cache/embed/<key>`, because DVC deletes outs before a run.
Where there are several GPUs, a process for each of them makes its share of the parts.
"""

import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from tuwen.core.params import Embed
from tuwen.core.progress import follow
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.json_file import read_json
from tuwen.data.formats.text import load_tokenizer
from tuwen.model.adapter import embed_given, is_adapter, load_adapter, read_given
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import load_model
from tuwen.retrieval.encode import (
    count_block_rows,
    decode_row,
    list_image_rows,
    stream_caption_vectors,
    stream_vectors,
)
from tuwen.retrieval.vectors import Vectors

_Row = TypeVar("_Row")

PART = 512  # rows kept in one file: what is held in memory, and what a kill costs at most
WORK = Path(".cache/embed")
DECIDING_CODE = ("data/formats", "model", "retrieval/embed.py", "retrieval/encode.py", "retrieval/vectors.py")


class VectorPart(NamedTuple):
    """A file of whole blocks of rows, but for the last one of a set."""

    path: Path
    rows: range


def embed_set(model_folder: Path, set_folder: Path, out: Path, params: Embed, processes: int = 1) -> None:
    """Write `images.npy` [I, D] and `texts.npy` [T, D], float32 unit rows, for the set in `set_folder`.

    Memory holds a part of the vectors and the images being decoded, whatever the size of the set; the bytes
    depend neither on the workers nor on a kill between. processes: each takes a GPU of its own where there are
    some, and makes the same blocks that one process alone would make. Raises UserError where an image cannot be
    decoded.
    """
    inputs, settings = {"model": model_folder, "set": set_folder}, {"batch_size": params.batch_size}
    if is_adapter(model_folder):
        _write_given(model_folder, set_folder, out)
        manifest.write_manifest(out, inputs, {})
        return
    work = WORK / manifest.make_work_key(inputs, settings, DECIDING_CODE)
    work.mkdir(parents=True, exist_ok=True)
    pair_set, size = pairs.read_pair_set(set_folder), params.batch_size
    whole = [_list_parts(work, "images", len(pair_set.images), size)]
    whole.append(_list_parts(work, "texts", len(pair_set.texts), size))
    missing = [_list_missing(parts) for parts in whole]
    make = partial(_make_parts, model_folder, set_folder, size)
    if processes == 1:
        make(0, *missing)
    else:  # not forked: CUDA does not work in a fork
        shares = [[_take_share(parts, n, processes) for n in range(processes)] for parts in missing]
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(make, range(processes), *shares))
    out.mkdir(parents=True, exist_ok=True)
    dim = read_json(model_folder / "config.json")["dim"]
    for name, parts in zip(("images", "texts"), whole, strict=True):
        _join_parts(out / f"{name}.npy", parts, dim)
    manifest.write_manifest(out, inputs, {})
    shutil.rmtree(work, ignore_errors=True)


def _make_parts(
    model_folder: Path,
    set_folder: Path,
    batch_size: int,
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
    captions = [caption or "" for caption in _take_rows(pair_set.texts["caption"].to_pylist(), texts)]
    decode = partial(decode_row, set_folder.parent.parent, model.picture_rule)
    _write_parts(images, stream_vectors(model, rows, decode, batch_size), "images")
    _write_parts(texts, stream_caption_vectors(model, tokenizer, captions, batch_size), "texts")


def _write_given(model_folder: Path, set_folder: Path, out: Path) -> None:
    """Write the vectors that another program made of the set, by their ids, through the model's heads."""
    tables, heads = pairs.read_pair_set(set_folder), load_adapter(model_folder)
    ids = tables.images["image_id"].to_pylist(), tables.texts["text_id"].to_pylist()
    out.mkdir(parents=True, exist_ok=True)
    for name, vectors in zip(("images", "texts"), embed_given(heads, read_given(model_folder), *ids), strict=True):
        np.save(out / f"{name}.npy", vectors)


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


def _write_parts(parts: list[VectorPart], blocks: Iterator[Vectors], name: str) -> None:
    """Write each part once its blocks are there, whole or not at all."""
    left, held = deque(parts), list[Vectors]()
    for block in follow(blocks, f"embed {name}", sum(len(part.rows) for part in parts), len):
        held.append(block)
        if sum(map(len, held)) == len(left[0].rows):
            path = left.popleft().path
            begun = path.with_name(f"begun-{path.name}")
            np.save(begun, np.concatenate(held))
            os.replace(begun, path)
            held = []
    assert not left


def _join_parts(out: Path, parts: list[VectorPart], dim: int) -> None:
    with open(out, "wb") as file:  # the bytes of np.save, without holding all
        header = {"descr": "<f4", "fortran_order": False, "shape": (sum(len(part.rows) for part in parts), dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            np.load(part.path).tofile(file)
