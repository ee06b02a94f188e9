"""A killed `embed` goes on after the last part, and writes what one that was never killed writes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.checkout import ROOT
from tests.support.training import caption, write_set
from tuwen.core.params import Embed
from tuwen.data.formats import manifest
from tuwen.data.formats.text import build_vocabulary
from tuwen.model import dual_encoder
from tuwen.retrieval import embed, encode
from tuwen.retrieval.embedding import vector_parts

ROWS, PIECE, PART = 45, 4, 8  # five whole parts of pictures and a last one of five rows
CONFIG = {
    "dim": 16,
    "image": {"size_px": 16, "patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.0},
    "text": {"width": 64, "layers": 1, "dropout": 0.0, "max_tokens": 16},
}
# Is killed once so many images or captions have been given to the model.
DRIVER = f"""
import os, signal, sys
from pathlib import Path
from tuwen.core.params import Embed
from tuwen.retrieval import embed, encode
from tuwen.retrieval.embedding import vector_parts

encode.PIECE, vector_parts.PART = {PIECE}, {PART}
left = int(sys.argv[2])
original = getattr(encode, sys.argv[1])

def killed(*given):
    global left
    left -= {PIECE}
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*given)

setattr(encode, sys.argv[1], killed)
embed.embed_set(Path("models/m"), Path("data/clean/test"), Path("embeddings/m/test"),
                Embed(batch_size={PIECE}, dtype="float32"))
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUWEN_WORKERS", "2")
    monkeypatch.setattr(encode, "PIECE", PIECE)
    monkeypatch.setattr(vector_parts, "PART", PART)
    write_set(Path("data"), "test", {"": range(ROWS)})
    write_model(Path("models/m"), seed=0)


def write_model(folder: Path, seed: int) -> None:
    vocabulary = build_vocabulary(map(caption, range(ROWS)))
    torch.manual_seed(seed)
    dual_encoder.save_model(dual_encoder.DualEncoder(CONFIG | {"vocabulary": len(vocabulary)}), folder, vocabulary)
    manifest.write_manifest(folder, {}, {})


def run(out: str = "embeddings/m/test", batch_size: int = PIECE) -> dict[str, bytes]:
    embed.embed_set(
        Path("models/m"), Path("data/clean/test"), Path(out), Embed(batch_size=batch_size, dtype="float32")
    )
    return {path.name: path.read_bytes() for path in Path(out).iterdir()}


def killed(function: str, after: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", DRIVER, function, str(after)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    found, original = list[int](), getattr(encode, name)

    # rows: a list or an iterator's source, by the function that is counted; both have a length
    def count(encoder: dual_encoder.DualEncoder, rows: Any, *more: object) -> object:
        found.append(len(rows))
        return original(encoder, rows, *more)

    monkeypatch.setattr(encode, name, count)
    return found


def test_a_killed_run_goes_on_and_writes_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed("_encode_images", 32)
    (work,) = Path(".cache/embed").iterdir()
    standing = sorted(work.glob("images-*.npy"))
    assert 2 <= len(standing) <= 4  # two threads hold what is not written yet
    assert not list(Path("embeddings/m/test").glob("*.npy"))
    pictures = counted(monkeypatch, "_encode_images")
    resumed = run()
    assert f"goes on after {PART * len(standing)} of {ROWS} images" in capsys.readouterr().out
    assert sum(pictures) == ROWS - PART * len(standing)
    assert list(Path(".cache/embed").iterdir()) == []
    pictures.clear()
    assert run("embeddings/whole") == resumed
    assert sum(pictures) == ROWS


def test_finished_pictures_are_not_embedded_again_for_the_texts_sake(monkeypatch: pytest.MonkeyPatch) -> None:
    killed("encode_tokens", 24)
    pictures, texts = counted(monkeypatch, "_encode_images"), counted(monkeypatch, "encode_tokens")
    resumed = run()
    assert pictures == []
    assert 0 < sum(texts) < ROWS
    assert run("embeddings/whole") == resumed


def stopped(monkeypatch: pytest.MonkeyPatch, after: int) -> Path:
    """Run until `after` pictures are embedded; what is left of the work."""
    left, original = [after], encode._encode_images

    def stop(*given: Any) -> object:
        left[0] -= PIECE
        if left[0] < 0:
            raise InterruptedError
        return original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(encode, "_encode_images", stop)
        with pytest.raises(InterruptedError):
            run()
    (work,) = Path(".cache/embed").iterdir()
    return work


def test_a_part_that_is_not_whole_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = stopped(monkeypatch, 32) / "images-000000.npy"
    first.write_bytes(first.read_bytes()[:100])
    assert run() == run("embeddings/whole")


def test_only_the_very_same_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(monkeypatch, 32)
    pictures = counted(monkeypatch, "_encode_images")
    run(batch_size=2)
    write_set(Path("data"), "test", {"": range(1, ROWS)})
    manifest.write_manifest(Path("data/clean/test"), {}, {"another": "set"})
    run()
    write_model(Path("models/m"), seed=1)
    run()
    assert sum(pictures) == ROWS + 2 * (ROWS - 1)


def test_the_bytes_do_not_depend_on_workers_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    threads = torch.get_num_threads()
    for workers in (1, 2, 5):
        monkeypatch.setenv("TUWEN_WORKERS", str(workers))
        torch.set_num_threads(3 - min(workers, 2))
        made.append(run())
    assert made[0] == made[1] == made[2]
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)


def test_two_processes_make_the_bytes_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "PIECE", 16)  # as the processes have it
    monkeypatch.setattr(vector_parts, "PART", 16)
    alone = run(batch_size=16)
    places = Path("models/m"), Path("data/clean/test"), Path("embeddings/two")
    embed.embed_set(*places, Embed(batch_size=16, dtype="float32"), processes=2)
    assert {path.name: path.read_bytes() for path in places[2].iterdir()} == alone
    assert list(Path(".cache/embed").iterdir()) == []


def test_the_file_is_what_numpy_writes(tmp_path: Path) -> None:
    made = run()
    found = np.load("embeddings/m/test/images.npy")
    assert found.shape == (ROWS, 16)
    np.save(tmp_path / "again.npy", found)
    assert (tmp_path / "again.npy").read_bytes() == made["images.npy"]


def test_no_more_than_a_part_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    saved, save = list[int](), np.save
    monkeypatch.setattr(vector_parts.np, "save", lambda path, rows: saved.append(len(rows)) or save(path, rows))
    run()
    assert saved == [8, 8, 8, 8, 8, 5] * 2
