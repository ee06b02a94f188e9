"""Vectors that another program made, as a model: a folder of them by id, and heads that can be trained over them.

    images.npy, texts.npy   float arrays [N, D] of one space, of which every row is divided by its length here
    images.txt, texts.txt   the ids of their rows, one a line: image_id and text_id of our tables

Shapes: B rows of a batch, N rows, D dimensions.
"""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tuwen.core.errors import UserError
from tuwen.data.formats.json_file import read_json, write_json
from tuwen.model import state_dict
from tuwen.model.dual_encoder import MAX_SCALE, START_SCALE
from tuwen.model.stored_model import ADAPTER_KIND, REMAKE

GIVEN_FILES = ("images.npy", "images.txt", "texts.npy", "texts.txt")
MISSING_SHOWN = 5


class Adapter(nn.Module):
    """A linear head over the vectors of each side; what it adds to them begins at nothing.

    It stands where a dual encoder does in a training, and takes vectors in place of pixels and token ids.
    """

    takes_token_vectors = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"kind": ADAPTER_KIND, "dim": dim}
        self.image_tower, self.text_tower = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        for head in (self.image_tower, self.text_tower):
            nn.init.zeros_(head.weight)
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))

    def encode_image(self, vectors_BD: Tensor) -> Tensor:
        """Map unit vectors [B, D] of images to unit vectors [B, D], float32."""
        return nn.functional.normalize((vectors_BD + self.image_tower(vectors_BD)).float(), dim=-1)

    def encode_text(self, vectors_BD: Tensor, mask_BD: Tensor) -> Tensor:
        """Map unit vectors [B, D] of texts to unit vectors [B, D], float32; the mask says nothing."""
        return nn.functional.normalize((vectors_BD + self.text_tower(vectors_BD)).float(), dim=-1)

    @property
    def scale(self) -> Tensor:
        """The learned factor of the cosines, 1 / temperature."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Do nothing: one layer keeps nothing that is worth computing again."""


class GivenSide(NamedTuple):
    """The vectors of the images or of the texts, on disk."""

    path: Path
    vectors: npt.NDArray[Any]  # [N, D]
    rows: dict[str, int]  # id -> row

    def take(self, ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the unit vectors of these ids, [N, D] float32. Raises UserError for ids without a sound one."""
        if missing := [one for one in ids if one not in self.rows]:
            raise UserError(
                f"{self.path}: has no vector of {len(missing)} of {len(ids)} ids, such as "
                f"{', '.join(missing[:MISSING_SHOWN])}; let the program that made it embed them too"
            )
        taken = np.asarray(self.vectors[[self.rows[one] for one in ids]], np.float32)
        lengths = np.linalg.norm(taken, axis=1, keepdims=True)
        wrong = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
        if len(wrong):
            raise UserError(f"{self.path}: the vector of {ids[wrong[0]]} is zero or not finite; embed it again")
        unit: npt.NDArray[np.float32] = taken / lengths
        return unit


class Given(NamedTuple):
    """What a folder of another program's vectors holds."""

    images: GivenSide
    texts: GivenSide


def read_given(folder: Path) -> Given:
    """Open the vectors in `folder`.

    Raises UserError where a file is missing, no float matrix, has other ids than rows or one twice, or where the
    two sides have different dimensions.
    """
    images, texts = (_read_side(folder, name) for name in ("images", "texts"))
    if images.vectors.shape[1] != texts.vectors.shape[1]:
        raise UserError(
            f"{folder}: images.npy has {images.vectors.shape[1]} dimensions, texts.npy "
            f"{texts.vectors.shape[1]}; expected vectors of one space"
        )
    return Given(images, texts)


def _read_side(folder: Path, name: str) -> GivenSide:
    path, listed = folder / f"{name}.npy", folder / f"{name}.txt"
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        ids = listed.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: missing; expected {', '.join(GIVEN_FILES)} in {folder}") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a NumPy array with ids beside it ({error}); write it again") from None
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise UserError(f"{path}: float array [rows, dimensions] expected, got {vectors.dtype} {vectors.shape}")
    rows = {one: row for row, one in enumerate(ids)}
    if not len(vectors) == len(ids) == len(rows):
        raise UserError(
            f"{listed}: {len(ids)} ids, {len(rows)} of them different, expected {len(vectors)}, one a row"
        )
    return GivenSide(path, vectors, rows)


def save_adapter(adapter: Adapter, given: Path, out: Path) -> None:
    """Write heads and vectors as a model folder; given: the folder that has the vectors."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", adapter.config, sort_keys=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in adapter.state_dict().items()}, out / "model.safetensors"
    )
    for name in GIVEN_FILES:
        if not (out / name).exists() or not (out / name).samefile(given / name):
            shutil.copyfile(given / name, out / name)


def load_adapter(folder: Path) -> Adapter:
    """Return the heads that `save_adapter` wrote, in evaluation mode."""
    adapter, weights = Adapter(read_json(folder / "config.json", REMAKE)["dim"]), folder / "model.safetensors"
    state_dict.fill_layers(adapter, state_dict.read_state(weights), weights)
    return adapter.eval()


@torch.inference_mode()
def embed_given(
    adapter: Adapter, given: Given, image_ids: Sequence[str], text_ids: Sequence[str]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the unit vectors of these images and texts by the adapter, [I, D] and [T, D]."""
    device = adapter.log_scale.device
    images, texts = (
        torch.from_numpy(side.take(ids)).to(device)
        for side, ids in ((given.images, image_ids), (given.texts, text_ids))
    )
    return adapter.encode_image(images).cpu().numpy(), adapter.encode_text(texts, texts).cpu().numpy()


@torch.inference_mode()
def map_query(adapter: Adapter | None, kind: str, vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the unit vector [D] of a query of `kind`, text or image, given as a vector of any length but 0.

    adapter: the heads that it goes through; None where it is of the model's own space.
    """
    unit: npt.NDArray[np.float32] = (vector / np.linalg.norm(vector.astype(np.float64))).astype(np.float32)
    if adapter is None:
        return unit
    row_1D = torch.from_numpy(unit)[None].to(adapter.log_scale.device)
    mapped_1D = adapter.encode_text(row_1D, row_1D) if kind == "text" else adapter.encode_image(row_1D)
    mapped: npt.NDArray[np.float32] = mapped_1D[0].cpu().numpy()
    return mapped
