"""A set -> its vectors on disk, in the order of its tables: `images.npy` and `texts.npy`.

What is made lies in `.cache/embed/<key>` until it is whole, because DVC deletes outs before a run. Where
projections can be told from the towers below them, that is what the towers pooled: it stays there for a day, since
models over the same towers, as a baseline and what is fine-tuned from it with `freeze: towers`, read the same. Its
key names the pictures and captions in their order, not the set: a task that the test split stands in for has a
copy of them in shards of its own. Never single rows: a block of another length has other last bits.
torch is imported only where something is missing.
Shapes: N rows, F numbers that a tower pools, D dimensions.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tuwen.core.params import Embed
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.json_file import read_json
from tuwen.model.stored_model import Matrix, StoredProjections, is_adapter, read_projections
from tuwen.retrieval.vectors import Vectors

WORK = Path(".cache/embed")
DECIDING_CODE = (
    "data/formats",
    "model",
    "retrieval/embed.py",
    "retrieval/embedding",
    "retrieval/encode.py",
    "retrieval/vectors.py",
)
POOLED_SECONDS, POOLED_SET_BYTES = 24 * 60 * 60, 1 << 30  # of what towers pooled
PROJECTED_ROWS = 4096  # at once
HASHED_ROWS = 65536  # at once
VECTOR_FILES = ("images", "texts")


def embed_set(model_folder: Path, set_folder: Path, out: Path, params: Embed, processes: int | None = 1) -> None:
    """Write `images.npy` [I, D] and `texts.npy` [T, D], float32 unit rows, for the set in `set_folder`.

    Memory holds a part of the vectors and the images being decoded, whatever the size of the set; the bytes depend
    neither on the workers, nor on a kill between, nor on what is there already. processes: each takes a GPU of its
    own where there are some, and makes the same blocks that one process alone would make; None: as many as
    TUWEN_GPUS asks for. Raises UserError where an image cannot be decoded.
    """
    if is_adapter(model_folder):
        _write_given(model_folder, set_folder, out)
    elif projections := read_projections(model_folder):
        out.mkdir(parents=True, exist_ok=True)
        with _hold_pooled(model_folder, set_folder, projections, params.batch_size, processes) as pooled:
            for name, matrix_DF in zip(VECTOR_FILES, (projections.image, projections.text), strict=True):
                pooled_NF = np.load(pooled / f"{name}.npy", mmap_mode="r")
                shape = len(pooled_NF), len(matrix_DF)
                _write_rows(out / f"{name}.npy", _project(pooled_NF, matrix_DF), shape)
    else:
        _write_vectors(model_folder, set_folder, out, params.batch_size, processes)
    manifest.write_manifest(out, {"model": model_folder, "set": set_folder}, {})


def _write_given(model_folder: Path, set_folder: Path, out: Path) -> None:
    """Write the vectors that another program made of the set, by their ids, through the model's heads."""
    from tuwen.model.adapter import embed_given, load_adapter, read_given

    tables, heads = pairs.read_pair_set(set_folder), load_adapter(model_folder)
    ids = tables.images["image_id"].to_pylist(), tables.texts["text_id"].to_pylist()
    out.mkdir(parents=True, exist_ok=True)
    for name, vectors in zip(VECTOR_FILES, embed_given(heads, read_given(model_folder), *ids), strict=True):
        np.save(out / f"{name}.npy", vectors)


def _write_vectors(
    model_folder: Path, set_folder: Path, out: Path, batch_size: int, processes: int | None
) -> None:
    """Write the vectors of a model as a whole, and remove the parts."""
    from tuwen.retrieval.embedding.vector_parts import make_parts

    work = _name_work({"model": model_folder, "set": set_folder}, {"batch_size": batch_size})
    work.mkdir(parents=True, exist_ok=True)
    parts = make_parts(model_folder, set_folder, work, batch_size, processes, pooled=False)
    out.mkdir(parents=True, exist_ok=True)
    dim = read_json(model_folder / "config.json")["dim"]
    for name in VECTOR_FILES:
        _join_parts(out / f"{name}.npy", parts[name], dim)
    shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _hold_pooled(
    model_folder: Path, set_folder: Path, projections: StoredProjections, batch_size: int, processes: int | None
) -> Iterator[Path]:
    """Yield the folder of what the towers pooled of the set, `images.npy` and `texts.npy` [N, F], float32."""
    rows = {"rows": _hash_rows(set_folder), "towers": projections.towers}
    with _hold_alone(work := _name_work({}, {"batch_size": batch_size, **rows})):
        if not _is_pooled(work):
            from tuwen.retrieval.embedding.vector_parts import make_parts

            parts = make_parts(model_folder, set_folder, work, batch_size, processes, pooled=True)
            for name, matrix_DF in zip(VECTOR_FILES, (projections.image, projections.text), strict=True):
                _join_parts(begun := work / f"begun-{name}.npy", parts[name], matrix_DF.shape[1])
                os.replace(begun, work / f"{name}.npy")
            for path in (path for paths in parts.values() for path in paths):
                path.unlink()
        os.utime(work)
        yield work
        _forget_pooled(work)


def _hash_rows(set_folder: Path) -> str:
    """Return the sha256 of what towers read of a set, in its order: the digest of each picture, each caption."""
    pair_set = pairs.read_pair_set(set_folder)
    digest = hashlib.sha256(f"{len(pair_set.images)} {len(pair_set.texts)}".encode())
    for images in pair_set.images.select(["shard", "sha256"]).to_batches(HASHED_ROWS):
        # wherever its bytes lie; a picture without any is seen as white
        seen = [row["sha256"] if row["shard"] else None for row in images.to_pylist()]
        digest.update(json.dumps(seen).encode())
    for texts in pair_set.texts.select(["caption"]).to_batches(HASHED_ROWS):
        digest.update(json.dumps(texts["caption"].to_pylist()).encode())
    return digest.hexdigest()


def _name_work(inputs: dict[str, Path], settings: Mapping[str, str | int]) -> Path:
    return WORK / manifest.make_work_key(inputs, settings, DECIDING_CODE)


@contextlib.contextmanager
def _hold_alone(folder: Path) -> Iterator[None]:
    """Make a folder, and let another process that needs the same wait until the block has ended."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.is_dir() and os.path.samestat(os.fstat(descriptor), folder.stat()):
            break
        os.close(descriptor)  # who held it before has removed it
    try:
        yield
    finally:
        os.close(descriptor)


def _is_pooled(folder: Path) -> bool:
    return all((folder / f"{name}.npy").is_file() for name in VECTOR_FILES)


def _forget_pooled(used: Path) -> None:
    """Remove what towers pooled and nobody read for long, and `used` itself where it is large."""
    large = sum(path.stat().st_size for path in used.iterdir()) > POOLED_SET_BYTES
    last = time.time() - POOLED_SECONDS
    old = [one for one in WORK.iterdir() if one != used and _is_pooled(one) and one.stat().st_mtime < last]
    for folder in [used, *old] if large else old:
        shutil.rmtree(folder, ignore_errors=True)


def _project(pooled_NF: Vectors, matrix_DF: Matrix) -> Iterator[Vectors]:
    """Yield unit vectors; in float64, so that float32 shows nothing of the order in which sums are made."""
    for start in range(0, len(pooled_NF), PROJECTED_ROWS):
        vectors_ND = pooled_NF[start : start + PROJECTED_ROWS].astype(np.float64) @ matrix_DF.T
        yield (vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).astype(np.float32)


def _join_parts(out: Path, parts: Sequence[Path], width: int) -> None:
    rows = sum(len(np.load(part, mmap_mode="r")) for part in parts)
    _write_rows(out, map(np.load, parts), (rows, width))


def _write_rows(out: Path, blocks: Iterable[Vectors], shape: tuple[int, int]) -> None:
    """Write blocks of float32 rows that together have this shape: the bytes of np.save, without holding all."""
    with open(out, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for block in blocks:
            block.tofile(file)
