import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.retrieval_world import build
from tuwen import pairs, track
from tuwen.errors import UserError
from tuwen.evaluate import evaluate
from tuwen.params import load


@pytest.fixture
def world(tmp_path):
    return build(tmp_path)


def run(root: Path, model: str = "finetuned"):
    params = load(root / "params.yaml")
    folders = root / "embeddings" / model, root / "data/clean", root / "results" / model
    return evaluate(*folders, params.evaluate, params.pairs)


def by_definition(root: Path, model: str, direction: str):
    """query id -> (best rank, true items, found among the first 5), from the full score matrix in float64."""
    test = pairs.read(root / "data/clean/test")
    images, texts = (
        np.load(root / "embeddings" / model / "test" / f"{side}.npy").astype(np.float64)
        for side in ("images", "texts")
    )
    image_ids, text_ids = test.images["image_id"].to_pylist(), test.texts["text_id"].to_pylist()
    true = [(row["text_id"], row["image_id"]) for row in test.pairs.to_pylist()]
    queries, gallery, scores = text_ids, image_ids, texts @ images.T
    if direction == "i2t":
        queries, gallery, scores = image_ids, text_ids, images @ texts.T
        true = [(image, text) for text, image in true]
    answers = {}
    for row, query in enumerate(queries):
        order = [gallery[item] for item in np.argsort(-scores[row], kind="stable")]
        places = sorted(order.index(item) + 1 for asked, item in true if asked == query)
        answers[query] = (places[0], len(places), sum(place <= 5 for place in places))
    return answers


def test_ranks_and_metrics_equal_the_definitions(world):
    metrics = run(world)["test"]
    table = pairs.read_table(world / "results/finetuned/ranks.parquet").to_pylist()
    assert list(table[0]) == [
        *("direction", "query_id", "group", "best_rank", "true_items"),
        *("found_at_1", "found_at_5", "found_at_10"),
    ]
    for direction in ("t2i", "i2t"):
        expected = by_definition(world, "finetuned", direction)
        rows = [row for row in table if row["direction"] == direction]
        found = {row["query_id"]: (row["best_rank"], row["true_items"], row["found_at_5"]) for row in rows}
        assert found == expected
        for k in (1, 5, 10):
            hits = [best <= k for best, _, _ in expected.values()]
            assert metrics[f"{direction}_hit_at_{k}"] == pytest.approx(np.mean(hits), abs=1e-6)
            low, high = metrics[f"{direction}_hit_at_{k}_low"], metrics[f"{direction}_hit_at_{k}_high"]
            assert low <= metrics[f"{direction}_hit_at_{k}"] <= high
        shares = [found / true for _, true, found in expected.values()]
        assert metrics[f"{direction}_recall_at_5"] == pytest.approx(np.mean(shares), abs=1e-6)
        assert metrics[f"{direction}_queries"] == len(expected)
    assert (metrics["images"], metrics["texts"]) == (12, 28)
    groups = {row["query_id"]: row["group"] for row in table}
    assert groups["list-04"] == "绿色方形"
    assert groups["colour-1"] == "绿色圆形"  # true for three pictures: it belongs to the first one's group


def test_files_repeat_and_the_better_model_measures_better(world):
    better, worse = run(world, "finetuned"), run(world, "baseline")
    assert better["test"]["t2i_hit_at_1"] > worse["test"]["t2i_hit_at_1"]
    paths = [
        world / "results/finetuned" / name for name in ("metrics.json", "ranks.parquet", "pair_cosines.parquet")
    ]
    first = [path.read_bytes() for path in paths]
    run(world, "finetuned")
    assert [path.read_bytes() for path in paths] == first
    assert json.loads(first[0]) == better


def test_the_banks_pairs_have_the_models_cosine_the_lowest_first(world):
    folder = world / "data/clean/bank"
    bank = pairs.read(folder)
    unfit = pa.array(
        [0 if name == "p03" else None if name == "p04" else 1 for name in bank.pairs["pair_id"].to_pylist()]
    )
    labels = bank.pairs.set_column(3, pairs.PAIRS.field("label"), unfit.cast(pa.int8()))
    pairs.write(folder, pairs.PairSet(bank.images, bank.texts, labels))
    metrics = run(world, "baseline")["bank"]
    images, texts = (np.load(world / "embeddings/baseline/bank" / f"{side}.npy") for side in ("images", "texts"))
    image_ids, text_ids = bank.images["image_id"].to_pylist(), bank.texts["text_id"].to_pylist()
    expected = {
        row["pair_id"]: float(images[image_ids.index(row["image_id"])] @ texts[text_ids.index(row["text_id"])])
        for row in bank.pairs.to_pylist()
        if row["pair_id"] != "p03"  # known not to fit
    }
    table = pairs.read_table(world / "results/baseline/pair_cosines.parquet")
    assert table.schema.names == ["pair_id", "image_id", "text_id", "cosine"]
    rows = table.to_pylist()
    assert {row["pair_id"]: row["cosine"] for row in rows} == pytest.approx(expected, abs=1e-6)
    assert rows == sorted(rows, key=lambda row: (row["cosine"], row["pair_id"]))
    under = np.array(list(expected.values())) < load(world / "params.yaml").pairs.min_cosine
    assert 0 < under.mean() < 1
    assert metrics == {
        "pairs": 35,
        "mean_cosine": pytest.approx(np.mean(list(expected.values())), abs=1e-5),
        "share_under_min_cosine": pytest.approx(under.mean(), abs=1e-6),
    }


def test_a_picture_without_texts_is_a_distractor_and_no_query(world):
    folder = world / "data/clean/test"
    test = pairs.read(folder)
    kept = test.pairs.filter([image != "图11.png" for image in test.pairs["image_id"].to_pylist()])
    pairs.write(folder, pairs.PairSet(test.images, test.texts, kept))
    metrics = run(world)["test"]
    assert (metrics["images"], metrics["i2t_queries"]) == (12, 11)
    assert (metrics["texts"], metrics["t2i_queries"]) == (28, 26)


@pytest.mark.parametrize("name", ["valid", "bank"])
def test_a_set_without_pairs_is_refused(world, name):
    folder = world / "data/clean" / name
    test = pairs.read(folder)
    pairs.write(folder, pairs.PairSet(test.images, test.texts, test.pairs.slice(0, 0)))
    with pytest.raises(UserError, match=rf"{name}/pairs\.parquet: no pair, so there is no truth to measure by"):
        run(world)


def test_groups_that_the_source_does_not_know_are_the_pictures(world):
    folder = world / "data/clean/test"
    test = pairs.read(folder)
    bare = test.images.set_column(2, "group", pa.nulls(12, pa.string()))
    pairs.write(folder, pairs.PairSet(bare, test.texts, test.pairs))
    run(world)
    rows = pairs.read_table(world / "results/finetuned/ranks.parquet").to_pylist()
    assert {row["group"] for row in rows if row["query_id"] == "name-03"} == {"图03.png"}


def test_the_stage_writes_its_outs_and_an_mlflow_run(world, store, run_stage):
    done = run_stage(world, "evaluate", "baseline")
    assert (done.returncode, done.stderr) == (0, "")
    metrics = json.loads((world / "results/baseline/metrics.json").read_text())
    client, experiment = track.connect()
    (logged,) = client.search_runs([experiment])
    assert logged.info.run_name == "evaluate-baseline"
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["test_t2i_hit_at_5"] == metrics["test"]["t2i_hit_at_5"]
    assert logged.data.metrics["bank_mean_cosine"] == metrics["bank"]["mean_cosine"]
    assert {"tuwen.input.embeddings-bank", "tuwen.input.data-bank"} <= set(logged.data.tags)
    assert logged.data.params["bootstrap_samples"] == "2000"


def test_a_users_mistakes_end_the_stage_with_one_message(world, run_stage):
    path = world / "embeddings/baseline/test/images.npy"
    rows = np.load(path)
    rows[3, 0] = np.nan
    np.save(path, rows)
    done = run_stage(world, "evaluate", "baseline")
    assert done.returncode == 1
    assert done.stderr.startswith("error: embeddings/baseline/test/images.npy: row 3 holds NaN or infinity; ")
    assert "Traceback" not in done.stderr
    assert not (world / "results").exists()

    path.unlink()
    with pytest.raises(
        UserError, match=r"baseline/test/images\.npy: these embeddings are missing; run `dvc repro`"
    ):
        run(world, "baseline")
    np.save(path, rows[:5])
    message = r"images\.npy: 5 rows found, 12 expected, one per row of .*clean/test/images\.parquet"
    with pytest.raises(UserError, match=message):
        run(world, "baseline")


def test_the_stage_says_how_it_is_called(world, run_stage):
    done = run_stage(world, "evaluate")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "python -m stages.evaluate MODEL" in done.stderr
