import csv
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from tests.support.retrieval import sign
from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.prediction import predict as results


def predict(root, k=5, **more):
    results.predict(root / "embeddings/final", root / "data/clean", root / "results", k, **more)


def test_both_files_hold_the_best_five_in_the_tables_order(world):
    predict(world)
    task = pairs.read_pair_set(world / "data/clean/t2i")
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


def test_qb_norm_answers_with_the_banks_correction_and_none_without(world, run_stage, write_params):
    predict(world)
    before = (world / "results/result1.csv").read_bytes()
    write_params(world, predict={"correction": "qbnorm"})
    chosen = world / "results/finetuned/details.json"
    chosen.parent.mkdir(parents=True, exist_ok=True)
    chosen.write_text(json.dumps({"qbnorm": {"t2i": {"beta": 20.0}, "i2t": {"beta": 5.0}}}))
    bank = world / "embeddings/final/bank"
    random = np.random.default_rng(2)
    for side in ("images", "texts"):  # another bank than the task, with a leaning of its own
        rows = random.normal(size=np.load(bank / f"{side}.npy").shape) + random.normal(size=16)
        np.save(bank / f"{side}.npy", (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    done = run_stage(world, "predict")
    assert (done.returncode, done.stderr) == (0, "")
    ids = [*(dict.fromkeys(row["text_id"] for row in rows_of(world / "results/result1.csv")))]
    images, texts = (
        np.load(world / f"embeddings/final/t2i/{n}.npy").astype(np.float64) for n in ("images", "texts")
    )
    banked = np.load(bank / "texts.npy").astype(np.float64) @ images.T
    scores = texts @ images.T
    softmax = np.exp(20 * scores) / np.exp(20 * banked).sum(axis=0)
    active = set(banked.argmax(axis=1).tolist())
    image_ids = pairs.read_pair_set(world / "data/clean/t2i").images["image_id"].to_pylist()
    expected, corrected = {}, 0
    for name, plain, inverted in zip(ids, scores, softmax, strict=True):
        corrected += int(plain.argmax()) in active
        order = np.argsort(-(inverted if int(plain.argmax()) in active else plain), kind="stable")
        expected[name] = [image_ids[item] for item in order[:5]]
    assert corrected > 0
    answers = {name: [] for name in ids}
    for row in rows_of(world / "results/result1.csv"):
        answers[row["text_id"]].append(row["result_image_id"])
    assert answers == expected
    assert (world / "results/result1.csv").read_bytes() != before


def test_qb_norm_needs_a_temperature_and_a_bank(world):
    chosen = world / "details.json"
    with pytest.raises(UserError, match=r"details\.json: missing; run `dvc repro`"):
        predict(world, chosen=chosen)
    chosen.write_text('{"qbnorm": {}}')
    with pytest.raises(UserError, match=r"details\.json: no temperature for t2i \(KeyError"):
        predict(world, chosen=chosen)
    (world / "embeddings/final/bank/texts.npy").unlink()
    with pytest.raises(UserError, match=r"bank/texts\.npy: these embeddings are missing"):
        predict(world, chosen=chosen)


def test_embeddings_of_another_model_are_refused_by_the_stage(world, run_stage):
    made = (world / "models/final/manifest.json").read_text()
    (world / "models/final/manifest.json").write_text(made.replace("{}", '{"lr": 1}', 1))
    done = run_stage(world, "predict")
    assert done.returncode == 1
    assert done.stderr.startswith("error: embeddings/final/t2i/manifest.json: made from another model: it names ")
    assert not (world / "results").exists()


def test_the_bank_of_another_model_is_refused_where_it_corrects_the_scores(world):
    shutil.copy(world / "embeddings/baseline/bank/manifest.json", world / "embeddings/final/bank")
    predict(world, model=world / "models/final")  # without QB-Norm nobody asks the bank
    with pytest.raises(UserError, match=r"final/bank/manifest\.json: made from another model"):
        predict(world, model=world / "models/final", chosen=world / "details.json")


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_stage_writes_the_same_bytes_again(world, run_stage):
    names = ("result1.csv", "result2.csv")
    predict(world)
    first = [(world / "results" / name).read_bytes() for name in names]
    done = run_stage(world, "predict")
    assert (done.returncode, done.stderr) == (0, "")
    assert [(world / "results" / name).read_bytes() for name in names] == first


def test_a_gallery_under_five_is_refused_by_the_stage(world, run_stage):
    folder = world / "data/clean/t2i"
    task = pairs.read_pair_set(folder)
    pairs.write_pair_set(folder, pairs.PairSet(task.images.slice(0, 4), task.texts, task.pairs.slice(0, 0)))
    path = world / "embeddings/final/t2i/images.npy"
    np.save(path, np.load(path)[:4])
    sign(world, "final", "t2i")
    done = run_stage(world, "predict")
    assert done.returncode == 1
    assert done.stderr.startswith("error: data/clean/t2i/images.parquet: 4 rows, but result1.csv needs a gallery")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("k", [1, 5, 10])
def test_k_ranks_are_written_beside_the_contests_files(world, k):
    predict(world)
    first = [(world / "results" / name).read_bytes() for name in ("result1.csv", "result2.csv")]
    predict(world, k=k)
    assert [(world / "results" / name).read_bytes() for name in ("result1.csv", "result2.csv")] == first
    for direction, whole in zip(("t2i", "i2t"), first, strict=True):
        with open(world / f"results/topk_{direction}.csv", encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert header == results.HEADERS[direction]
        assert [int(rank) for _, rank, _ in rows] == list(range(1, k + 1)) * (len(rows) // k)
        best = list(csv.reader(whole.decode().splitlines()))[1:]
        assert [row for row in rows if int(row[1]) <= 5] == [row for row in best if int(row[1]) <= k]


def test_k_may_be_the_whole_gallery_and_no_more(world):
    predict(world, k=12)
    with pytest.raises(UserError, match=r"images\.parquet: 12 rows, .* predict\.k is 13; .* or lower predict\.k"):
        predict(world, k=13)


def test_what_was_written_is_checked(world):
    folder = world / "data/clean/t2i"
    task = pairs.read_pair_set(folder)
    ids = [*task.texts["text_id"].to_pylist()[:-1], "name-00"]  # two queries of one name
    texts = task.texts.set_column(0, pairs.TEXTS.field("text_id"), pa.array(ids))
    pairs.write_pair_set(folder, pairs.PairSet(task.images, texts, task.pairs.slice(0, 0)))
    with pytest.raises(UserError, match=r"result1\.csv: line \d+: .*query 'name-00'"):
        predict(world)


def test_unsound_embeddings_are_refused_before_a_file_is_written(world):
    path = world / "embeddings/final/t2i/texts.npy"
    np.save(path, np.load(path)[1:])
    with pytest.raises(UserError, match=r"t2i/texts\.npy: 27 rows found, 28 expected"):
        predict(world)
    path.unlink()
    with pytest.raises(UserError, match=r"t2i/texts\.npy: these embeddings are missing"):
        predict(world)
    assert not (world / "results").exists()
