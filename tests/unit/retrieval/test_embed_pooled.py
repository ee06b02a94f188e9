"""Models over the same towers: what these make of a set is computed once, and read without torch."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.support.checkout import ROOT
from tests.support.frozen import VOCABULARY, make_encoder
from tests.support.training import caption, drawn, write_set
from tuwen.core.params import Embed
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.images import Pixels
from tuwen.data.formats.shards import ShardWriter
from tuwen.data.formats.text import load_tokenizer
from tuwen.model.dual_encoder import DualEncoder, save_model
from tuwen.retrieval import embed, encode
from tuwen.retrieval.embedding import vector_parts

ROWS = 21
PARAMS = Embed(batch_size=4, dtype="float32")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(Path("data"), "test", {"": range(ROWS)})
    for name, seed in (("baseline", 0), ("finetuned", 1)):
        save_model(make_model(seed), Path("models") / name, VOCABULARY)


def make_model(seed: int) -> DualEncoder:
    """The towers are always the same; the seed draws the projections."""
    model = make_encoder()
    torch.manual_seed(seed)
    for projection in (model.image_tower.projection, model.text_projection):
        torch.nn.init.normal_(projection.weight)
    return model


def run(model: str, out: str = "", name: str = "test") -> dict[str, bytes]:
    place = Path("embeddings") / (out or model)
    embed.embed_set(Path("models") / model, Path("data/clean") / name, place, PARAMS)
    return {path.name: path.read_bytes() for path in place.iterdir()}


def count(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """The rows of each call of a function of encode.py."""
    rows, original = list[int](), getattr(encode, name)

    def counted(model: DualEncoder, given: torch.Tensor, *more: object) -> object:
        rows.append(len(given))
        return original(model, given, *more)

    monkeypatch.setattr(encode, name, counted)
    return rows


def test_the_second_model_pools_nothing_and_has_the_bytes_of_a_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts = count(monkeypatch, "_pool_images"), count(monkeypatch, "_pool_text")
    run("baseline")
    assert (sum(images), sum(texts)) == (ROWS, ROWS)
    warm = run("finetuned")
    assert (sum(images), sum(texts)) == (ROWS, ROWS)
    (kept,) = embed.WORK.iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["images.npy", "texts.npy"]
    for path in kept.iterdir():
        path.unlink()
    assert run("finetuned", "cold") == warm
    assert sum(images) == 2 * ROWS


def test_the_vectors_are_those_of_the_model() -> None:
    run("baseline")
    run("finetuned")
    model, folder = make_model(1).eval(), Path("models/finetuned")
    squares = encode.read_images(Path("data"), pairs.read_pair_set(Path("data/clean/test")), model.picture_rule)
    wanted = encode.embed_images(model, squares, 4)
    captions = encode.embed_captions(
        model, load_tokenizer(folder / "vocab.txt"), list(map(caption, range(ROWS))), 4
    )
    for name, vectors in (("images", wanted), ("texts", captions)):
        np.testing.assert_allclose(np.load(f"embeddings/finetuned/{name}.npy"), vectors, atol=1e-6)
        assert not np.allclose(np.load(f"embeddings/baseline/{name}.npy"), vectors, atol=1e-2)


def test_what_is_there_is_projected_without_torch() -> None:
    run("baseline")
    code = """
import sys
from pathlib import Path
from tuwen.core.params import Embed
from tuwen.retrieval.embed import embed_set

params = Embed(batch_size=4, dtype="float32")
embed_set(Path("models/finetuned"), Path("data/clean/test"), Path("out"), params, processes=None)
print("torch" in sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "False\n", done.stderr
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == run("finetuned")


def change_tower(model: DualEncoder) -> None:
    with torch.no_grad():
        model.text_tower.embeddings.LayerNorm.bias[0] += 1


def change_pictures(model: DualEncoder) -> None:
    model.config["image"]["mean"] = model.config["image"]["std"] = [0.5] * 3


def change_captions(model: DualEncoder) -> None:
    model.config["text"]["simplify"] = True


@pytest.mark.parametrize("change", [change_tower, change_pictures, change_captions])
def test_towers_that_read_otherwise_pool_anew(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[DualEncoder], None]
) -> None:
    run("baseline")
    model = make_model(1)
    change(model)
    save_model(model, Path("models/other"), VOCABULARY)
    images = count(monkeypatch, "_pool_images")
    run("other")
    assert sum(images) == ROWS


def test_another_set_is_pooled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    run("baseline")
    write_set(Path("data"), "test", {"": range(1, ROWS)})
    images = count(monkeypatch, "_pool_images")
    run("finetuned")
    assert sum(images) == ROWS - 1


def write_task() -> Path:
    """Write t2i as `validate` does where the test split stands in for it: the same rows, shards of its own."""
    folder = write_set(Path("data"), "t2i", {"": range(ROWS)})
    manifest.write_manifest(folder, {}, {"another": "set"})
    return folder


def empty_cache() -> None:
    shutil.rmtree(embed.WORK)


def vectors_of(made: dict[str, bytes]) -> list[bytes]:
    return [made[f"{name}.npy"] for name in embed.VECTOR_FILES]


def test_a_set_of_the_same_pictures_and_captions_pools_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    write_task()
    images, texts = count(monkeypatch, "_pool_images"), count(monkeypatch, "_pool_text")
    test = run("baseline")
    task = run("finetuned", name="t2i")
    assert (sum(images), sum(texts)) == (ROWS, ROWS)
    assert vectors_of(run("baseline", name="t2i")) == vectors_of(test)
    assert (sum(images), sum(texts)) == (ROWS, ROWS)
    empty_cache()
    assert run("finetuned", "cold", name="t2i") == task
    assert sum(images) == 2 * ROWS


def test_a_killed_run_goes_on_in_a_set_of_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    write_task()
    monkeypatch.setattr(vector_parts, "PART", 8)
    with monkeypatch.context() as patch:
        rows, original = list[int](), encode._pool_images

        def stop(model: DualEncoder, given: list[Pixels]) -> object:
            rows.append(len(given))
            if sum(rows) > 16:
                raise InterruptedError
            return original(model, given)

        patch.setattr(encode, "_pool_images", stop)
        patch.setenv("TUWEN_WORKERS", "1")  # of two threads the first block's may count the second's rows
        with pytest.raises(InterruptedError):
            run("baseline")
    (work,) = embed.WORK.iterdir()
    left = len(list(work.glob("images-*.npy")))
    images = count(monkeypatch, "_pool_images")
    resumed = run("baseline", name="t2i")
    assert left >= 1
    assert sum(images) == ROWS - 8 * left
    empty_cache()
    assert run("baseline", "cold", name="t2i") == resumed


def test_who_waits_for_a_folder_that_is_removed_makes_it_anew() -> None:
    first = run("baseline")
    (work,) = embed.WORK.iterdir()
    held = os.open(work, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)  # as a process that embeds these rows
    made: list[dict[str, bytes]] = []
    waiting = threading.Thread(target=lambda: made.append(run("baseline", "second")))
    waiting.start()
    time.sleep(0.5)  # enough to be done, did it not wait: nothing tells from outside that a lock is waited for
    assert not made
    shutil.rmtree(work)  # it was large, so that process keeps nothing
    os.close(held)
    waiting.join()
    assert made == [first]
    assert [path.name for path in embed.WORK.iterdir()] == [work.name]


def other_picture(folder: Path) -> None:
    with ShardWriter(Path("data"), "clean/t2i/other") as writer:
        member = writer.add("5.png", drawn(ROWS))
    pair_set = pairs.read_pair_set(folder)
    rows = pair_set.images.to_pylist()
    rows[5] |= member._asdict()
    pairs.write_pair_set(folder, replace(pair_set, images=pa.Table.from_pylist(rows, pairs.IMAGES)))


def no_picture(folder: Path) -> None:
    pair_set = pairs.read_pair_set(folder)
    rows = pair_set.images.to_pylist()
    rows[5]["shard"] = None
    pairs.write_pair_set(folder, replace(pair_set, images=pa.Table.from_pylist(rows, pairs.IMAGES)))


def other_caption(folder: Path) -> None:
    pair_set = pairs.read_pair_set(folder)
    rows = pair_set.texts.to_pylist()
    rows[5]["caption"] = caption(6)
    pairs.write_pair_set(folder, replace(pair_set, texts=pa.Table.from_pylist(rows, pairs.TEXTS)))


def other_order(folder: Path) -> None:
    pair_set = pairs.read_pair_set(folder)
    pairs.write_pair_set(folder, replace(pair_set, images=pair_set.images.take(list(reversed(range(ROWS))))))


@pytest.mark.parametrize("change", [other_picture, no_picture, other_caption, other_order])
def test_a_set_that_differs_in_one_row_is_pooled_by_itself(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    change(write_task())
    run("baseline")
    images = count(monkeypatch, "_pool_images")
    task = run("baseline", name="t2i")
    assert sum(images) == ROWS
    empty_cache()
    assert run("baseline", "cold", name="t2i") == task


def test_what_nobody_read_for_long_or_is_large_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    run("baseline")
    (kept,) = embed.WORK.iterdir()
    left = embed.WORK / "0123456789abcdef"  # of a run that was killed
    left.mkdir()
    for folder in (kept, left):
        os.utime(folder, (0, 0))
    write_set(Path("data"), "test", {"": range(1, ROWS)})
    run("baseline")
    assert left.is_dir()
    assert not kept.is_dir()
    monkeypatch.setattr(embed, "POOLED_SET_BYTES", 0)
    run("finetuned")
    assert list(embed.WORK.iterdir()) == [left]


def test_a_model_that_cannot_be_read_is_named_by_who_loads_it() -> None:
    weights = Path("models/baseline/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors: no readable weights"):
        run("baseline")
