"""What a model folder holds, read without torch: its projections, and which towers stand below them.

Two models of the same towers, as a baseline and what is trained from it with `freeze: towers`, differ in no more.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tuwen.data.formats import manifest
from tuwen.data.formats.json_file import read_json

REMAKE = "make the model again with `dvc repro`, or fetch it with `dvc pull`"
ADAPTER_KIND = "embeddings"  # of config.json, and of baseline.start
MATRICES = ("image_tower.projection.weight", "text_projection.weight")
NOT_OF_TOWERS = {*MATRICES, "log_scale", "logit_bias"}
READING = ("preprocessor.json", "vocab.txt")  # what decides how pictures and captions reach the towers
Matrix = npt.NDArray[np.float64]


class StoredProjections(NamedTuple):
    """Both projections [D, F], float64, and the digest of all that makes what they read."""

    image: Matrix
    text: Matrix
    towers: str


def copy_model(folder: Path, out: Path) -> None:
    """Make `out` a copy of the model in `folder`."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder, out, copy_function=shutil.copyfile)  # not its mode: DVC keeps what it cached read-only


def is_adapter(folder: Path) -> bool:
    """Whether the model in a folder is vectors of another program."""
    beside = folder / "config.json"
    return beside.is_file() and read_json(beside, REMAKE).get("kind") == ADAPTER_KIND


def read_projections(folder: Path) -> StoredProjections | None:
    """Return the projections of the model in `folder`.

    None for a model whose tower has its projection inside, and where a file cannot be read: to say so is
    `load_model`'s.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "model.safetensors", "numpy") as file:
            names = sorted(file.keys())
            if not set(MATRICES) <= set(names):
                return None
            image, text = (file.get_tensor(name).astype(np.float64) for name in MATRICES)
            tensors = {name: _hash_tensor(file.get_tensor(name)) for name in names if name not in NOT_OF_TOWERS}
        config = read_json(folder / "config.json", REMAKE)
        files = {name: manifest.hash_file(folder / name) for name in READING}
    except (SafetensorError, OSError):
        return None
    parts = [config["image"], config["text"], files, tensors]
    return StoredProjections(image, text, hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest())


def _hash_tensor(tensor: npt.NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tensor.shape}".encode())
    digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()
