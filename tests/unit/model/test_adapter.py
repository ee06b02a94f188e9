"""Vectors of another program: read by their ids, checked, and passed through heads that begin at nothing."""

from pathlib import Path

import numpy as np
import pytest

from tuwen.core.errors import UserError
from tuwen.model import adapter, stored_model


def write_given(folder: Path, images: np.ndarray, texts: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for name, vectors in (("images", images), ("texts", texts)):
        np.save(folder / f"{name}.npy", vectors)
        ids = "\n".join(f"{name}-{row}" for row in range(len(vectors)))
        (folder / f"{name}.txt").write_text(ids + "\n", encoding="utf-8")
    return folder


def draw(rows: int, dim: int = 4) -> np.ndarray:
    return 3 * np.random.default_rng(rows).normal(size=(rows, dim)).astype(np.float16)


def test_rows_are_found_by_id_and_divided_by_their_length(tmp_path: Path) -> None:
    given = adapter.read_given(write_given(tmp_path, draw(5), draw(6)))
    heads = adapter.Adapter(4)
    images, texts = adapter.embed_given(heads, given, ["images-3", "images-0"], ["texts-5"])
    due = draw(5)[[3, 0]].astype(np.float32)
    assert np.abs(images - due / np.linalg.norm(due, axis=1, keepdims=True)).max() < 1e-6
    assert texts.shape == (1, 4)
    adapter.save_adapter(heads, tmp_path, tmp_path / "model")
    assert stored_model.is_adapter(tmp_path / "model")
    assert not stored_model.is_adapter(tmp_path)
    again = adapter.read_given(tmp_path / "model")
    assert np.array_equal(
        adapter.embed_given(adapter.load_adapter(tmp_path / "model"), again, ["images-3"], [])[0][0], images[0]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images.txt": "a\nb\n"}, r"images\.txt: 2 ids, 2 of them different, expected 5, one a row"),
        ({"texts.txt": "a\na\nb\nc\nd\ne\n"}, r"texts\.txt: 6 ids, 5 of them different, expected 6"),
        (
            {"texts.txt": None},
            r"texts\.txt: missing; expected images\.npy, images\.txt, texts\.npy, texts\.txt in",
        ),
        ({"images.npy": "no array"}, r"images\.npy: not a NumPy array"),
    ],
)
def test_folders_that_are_not_whole_are_named(change: dict, message: str, tmp_path: Path) -> None:
    write_given(tmp_path, draw(5), draw(6))
    for name, text in change.items():
        (tmp_path / name).unlink()
        if text is not None:
            (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        adapter.read_given(tmp_path)


def test_vectors_of_two_spaces_whole_numbers_and_zeros_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"images\.npy has 4 dimensions, texts\.npy 3; expected vectors of one space"
    ):
        adapter.read_given(write_given(tmp_path, draw(5), draw(6, 3)))
    with pytest.raises(UserError, match=r"images\.npy: float array \[rows, dimensions\] expected, got int64"):
        adapter.read_given(write_given(tmp_path, np.ones((5, 4), np.int64), draw(6)))
    zeros = draw(5)
    zeros[2] = 0
    side = adapter.read_given(write_given(tmp_path, zeros, draw(6))).images
    with pytest.raises(UserError, match=r"the vector of images-2 is zero or not finite"):
        side.take(["images-1", "images-2"])
    with pytest.raises(
        UserError, match=r"images\.npy: has no vector of 2 of 3 ids, such as 猫, 狗; let the program"
    ):
        side.take(["猫", "images-1", "狗"])
