"""A set -> its vectors on disk, in the order of its tables: `images.npy` and `texts.npy`.

A killed run goes on from the parts that it left in `.cache/embed/<key>`, because DVC deletes outs before a run.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tuwen.core.params import Embed
from tuwen.core.progress import follow
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.text import load_tokenizer
from tuwen.model.adapter import embed_given, is_adapter, load_adapter, read_given
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import load_model
from tuwen.retrieval.encode import decode_row, list_image_rows, stream_caption_vectors, stream_vectors
from tuwen.retrieval.vectors import Vectors

PART = 512  # rows kept in one file: what is held in memory, and what a kill costs at most
WORK = Path(".cache/embed")
DECIDING_CODE = ("data/formats", "model", "retrieval/embed.py", "retrieval/encode.py", "retrieval/vectors.py")


def embed_set(model_folder: Path, set_folder: Path, out: Path, params: Embed) -> None:
    """Write `images.npy` [I, D] and `texts.npy` [T, D], float32 unit rows, for the set in `set_folder`.

    Memory holds a part of the vectors and the images being decoded, whatever the size of the set; the bytes
    depend neither on the workers nor on a kill between. Raises UserError where an image cannot be decoded.
    """
    inputs, settings = {"model": model_folder, "set": set_folder}, {"batch_size": params.batch_size}
    if is_adapter(model_folder):
        _write_given(model_folder, set_folder, out)
        manifest.write_manifest(out, inputs, {})
        return
    work = WORK / manifest.make_work_key(inputs, settings, DECIDING_CODE)
    model = load_model(model_folder).to(choose_device())
    tokenizer = load_tokenizer(model_folder / "vocab.txt")
    pair_set = pairs.read_pair_set(set_folder)
    rows = list_image_rows(pair_set)
    captions = [caption or "" for caption in pair_set.texts["caption"].to_pylist()]
    decode = partial(decode_row, set_folder.parent.parent, model.picture_rule)
    out.mkdir(parents=True, exist_ok=True)
    _write(
        out / "images.npy",
        work,
        (len(rows), model.config["dim"]),
        lambda start: stream_vectors(model, rows[start:], decode, params.batch_size),
    )
    _write(
        out / "texts.npy",
        work,
        (len(captions), model.config["dim"]),
        lambda start: stream_caption_vectors(model, tokenizer, captions[start:], params.batch_size),
    )
    manifest.write_manifest(out, inputs, {})
    shutil.rmtree(work, ignore_errors=True)


def _write_given(model_folder: Path, set_folder: Path, out: Path) -> None:
    """Write the vectors that another program made of the set, by their ids, through the model's heads."""
    tables, heads = pairs.read_pair_set(set_folder), load_adapter(model_folder)
    ids = tables.images["image_id"].to_pylist(), tables.texts["text_id"].to_pylist()
    out.mkdir(parents=True, exist_ok=True)
    for name, vectors in zip(("images", "texts"), embed_given(heads, read_given(model_folder), *ids), strict=True):
        np.save(out / f"{name}.npy", vectors)


def _write(out: Path, work: Path, shape: tuple[int, int], stream_from: Callable[[int], Iterator[Vectors]]) -> None:
    """Write what `stream_from(first row)` yields as `out`, an array [rows, D]; finished parts are kept."""
    work.mkdir(parents=True, exist_ok=True)
    parts = _list_whole_parts(work, out.stem, shape)
    rows, start = shape[0], sum(len(np.load(path, mmap_mode="r")) for path in parts)
    if start:
        print(f"goes on after {start} of {rows} {out.stem}, found in {work}", flush=True)
    for vectors in _join_to_parts(follow(stream_from(start), f"embed {out.stem}", rows - start, len)):
        parts.append(work / f"{out.stem}-{len(parts):06d}.npy")
        np.save(work / "part.npy", vectors)
        os.replace(work / "part.npy", parts[-1])  # whole or not at all
    with open(out, "wb") as file:  # the bytes of np.save, without holding all
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for path in parts:
            np.load(path).tofile(file)


def _list_whole_parts(work: Path, name: str, shape: tuple[int, int]) -> list[Path]:
    """List the parts of an earlier run, up to the first that is missing or not whole."""
    parts: list[Path] = []
    while (path := work / f"{name}-{len(parts):06d}.npy").is_file():
        try:
            if np.load(path, mmap_mode="r").shape[1:] != shape[1:]:
                break
        except (ValueError, EOFError, OSError):  # the machine went down with it
            break
        parts.append(path)
    return parts


def _join_to_parts(blocks: Iterable[Vectors]) -> Iterator[Vectors]:
    """Yield whole blocks, joined to PART rows or just above."""
    held: list[Vectors] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= PART:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)
