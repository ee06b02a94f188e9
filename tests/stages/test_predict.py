import csv

import numpy as np
import pytest

from tests.retrieval_world import build
from tuwen import pairs, results
from tuwen.errors import UserError


@pytest.fixture
def world(tmp_path):
    return build(tmp_path)


def predict(root, k=5):
    results.predict(root / "embeddings/final", root / "data/clean", root / "results", k)


def test_both_files_hold_the_best_five_in_the_tables_order(world):
    predict(world)
    task = pairs.read(world / "data/clean/t2i")
    ids = {"t2i": task.images["image_id"].to_pylist(), "i2t": task.texts["text_id"].to_pylist()}
    asking = {"t2i": ids["i2t"], "i2t": ids["t2i"]}
    for direction, name in (("t2i", "result1.csv"), ("i2t", "result2.csv")):
        images, texts = (
            np.load(world / "embeddings/final" / direction / f"{side}.npy").astype(np.float64)
            for side in ("images", "texts")
        )
        scores = texts @ images.T if direction == "t2i" else images @ texts.T
        expected = [
            [query, str(rank), ids[direction][item]]
            for query, row in zip(asking[direction], scores, strict=True)
            for rank, item in enumerate(np.argsort(-row, kind="stable")[:5], 1)
        ]
        with open(world / "results" / name, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert header == results.HEADERS[direction]
        assert rows == expected


def test_the_stage_writes_the_same_bytes_again(world, run_stage):
    names = ("result1.csv", "result2.csv")
    predict(world)
    first = [(world / "results" / name).read_bytes() for name in names]
    done = run_stage(world, "predict")
    assert (done.returncode, done.stderr) == (0, "")
    assert [(world / "results" / name).read_bytes() for name in names] == first


def test_a_gallery_under_five_is_refused_by_the_stage(world, run_stage):
    folder = world / "data/clean/t2i"
    task = pairs.read(folder)
    pairs.write(folder, pairs.PairSet(task.images.slice(0, 4), task.texts, task.pairs.slice(0, 0)))
    path = world / "embeddings/final/t2i/images.npy"
    np.save(path, np.load(path)[:4])
    done = run_stage(world, "predict")
    assert done.returncode == 1
    assert done.stderr.startswith("error: data/clean/t2i/images.parquet: 4 rows, but result1.csv needs a gallery")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("k", [1, 10])
def test_another_k_is_written_beside_the_contests_files(world, k):
    predict(world)
    first = [(world / "results" / name).read_bytes() for name in ("result1.csv", "result2.csv")]
    assert list((world / "results/topk").iterdir()) == []
    predict(world, k=k)
    assert [(world / "results" / name).read_bytes() for name in ("result1.csv", "result2.csv")] == first
    for direction, whole in zip(("t2i", "i2t"), first, strict=True):
        with open(world / f"results/topk/topk_{direction}.csv", encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert header == results.HEADERS[direction]
        assert [int(rank) for _, rank, _ in rows] == list(range(1, k + 1)) * (len(rows) // k)
        best = list(csv.reader(whole.decode().splitlines()))[1:]
        assert [row for row in rows if int(row[1]) <= 5] == [row for row in best if int(row[1]) <= k]
    predict(world)
    assert list((world / "results/topk").iterdir()) == []  # nothing of an earlier k stays


def test_a_k_over_the_gallery_is_refused(world):
    with pytest.raises(UserError, match=r"images\.parquet: 12 rows, .* predict\.k is 13; .* or lower predict\.k"):
        predict(world, k=13)


def test_unsound_embeddings_are_refused_before_a_file_is_written(world):
    path = world / "embeddings/final/t2i/texts.npy"
    np.save(path, np.load(path)[1:])
    with pytest.raises(UserError, match=r"t2i/texts\.npy: 27 rows found, 28 expected"):
        predict(world)
    path.unlink()
    with pytest.raises(UserError, match=r"t2i/texts\.npy: these embeddings are missing"):
        predict(world)
    assert not (world / "results").exists()
