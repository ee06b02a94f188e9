import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.support.retrieval import run
from tuwen.core.params import load_params
from tuwen.data.formats import pairs
from tuwen.evaluation import details
from tuwen.evaluation.evaluate import choose_min_cosine
from tuwen.retrieval import qb_norm
from tuwen.retrieval.calibration import FirstAnswers, measure_calibration
from tuwen.retrieval.intervals import resampling


def by_definition(root: Path, model: str, direction: str):
    """query id -> (best rank, true items, found among the first 5), from the full score matrix in float64."""
    test = pairs.read_pair_set(root / "data/clean/test")
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
        *("direction", "query_id", "group", "caption_in_train", "best_rank", "true_items"),
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
        assert metrics[f"{direction}_median_rank"] == np.median([best for best, _, _ in expected.values()])
    hits = [metrics[f"{direction}_hit_at_{k}"] for direction in ("t2i", "i2t") for k in (1, 5, 10)]
    assert metrics["mean_recall"] == pytest.approx(np.mean(hits), abs=1e-6)
    assert metrics["t2i_mean_recall"] == pytest.approx(np.mean(hits[:3]), abs=1e-6)
    worse = run(world, "baseline")["test"]
    assert worse["mean_recall_low"] < worse["mean_recall"] < worse["mean_recall_high"] < 1
    assert (metrics["images"], metrics["texts"]) == (12, 28)
    groups = {row["query_id"]: row["group"] for row in table}
    assert groups["list-04"] == "绿色方形"
    assert groups["colour-1"] == "绿色圆形"  # true for three pictures: it belongs to the first one's group


def test_files_repeat_and_the_better_model_measures_better(world):
    better, worse = run(world, "finetuned"), run(world, "baseline")
    assert better["test"]["t2i_hit_at_1"] > worse["test"]["t2i_hit_at_1"]
    paths = [
        world / "results/finetuned" / name
        for name in ("metrics.json", "details.json", "ranks.parquet", "pair_cosines.parquet")
    ]
    first = [path.read_bytes() for path in paths]
    run(world, "finetuned")
    assert [path.read_bytes() for path in paths] == first
    assert json.loads(first[0]) == better


def read_vectors(root, model, name):
    folder = root / "embeddings" / model / name
    return {side: np.load(folder / f"{side}.npy").astype(np.float64) for side in ("images", "texts")}


@pytest.mark.parametrize(
    ("direction", "asking", "asked"), [("t2i", "texts", "images"), ("i2t", "images", "texts")]
)
def test_the_corrected_line_is_qb_norm_by_its_definition(world, direction, asking, asked):
    metrics = run(world, "baseline")["test"]
    details = json.loads((world / "results/baseline/details.json").read_text())
    beta = details["qbnorm"][direction]["beta"]
    assert beta in qb_norm.BETAS
    test, bank = read_vectors(world, "baseline", "test"), read_vectors(world, "baseline", "bank")
    scores, banked = test[asking] @ test[asked].T, bank[asking] @ test[asked].T
    softmax = np.exp(beta * scores) / np.exp(beta * banked).sum(axis=0)
    active = set(banked.argmax(axis=1).tolist())
    true = {query: set() for query in range(len(scores))}
    for image, text in zip(*pairs.find_true_rows(pairs.read_pair_set(world / "data/clean/test")), strict=True):
        query, item = (text, image) if direction == "t2i" else (image, text)
        true[query].add(item)
    orders = []
    for plain, corrected in zip(scores, softmax, strict=True):
        rank_by = corrected if int(plain.argmax()) in active else plain
        orders.append(np.argsort(-rank_by, kind="stable").tolist())
    for k in (1, 5, 10):
        hits = [bool(true[query] & set(order[:k])) for query, order in enumerate(orders)]
        name = f"{direction}_qbnorm_hit_at_{k}"
        assert metrics[name] == pytest.approx(np.mean(hits), abs=1e-6)
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
        gain = metrics[name] - metrics[f"{direction}_hit_at_{k}"]
        assert metrics[f"{direction}_qbnorm_gain_at_{k}"] == pytest.approx(gain, abs=2e-6)
    plain_first = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    for first, name in ((plain_first, "hub_skewness"), ([order[:10] for order in orders], "qbnorm_hub_skewness")):
        times = np.bincount(np.ravel(first), minlength=scores.shape[1])
        skewness = ((times - times.mean()) ** 3).mean() / times.std() ** 3
        assert metrics[f"{direction}_{name}"] == pytest.approx(skewness, abs=1e-5)


def test_details_hold_curves_scores_and_hubs(world):
    metrics = run(world)["test"]
    details = json.loads((world / "results/finetuned/details.json").read_text())
    for direction, gallery in (("t2i", 12), ("i2t", 28)):
        curve = details["gallery_curve"][direction]
        assert [point["gallery"] for point in curve] == {12: [10, 12], 28: [10, 20, 28]}[gallery]
        for k in (1, 5, 10):
            assert curve[-1][f"hit_at_{k}"] == pytest.approx(metrics[f"{direction}_hit_at_{k}"], abs=1e-6)
            assert curve[0][f"hit_at_{k}"] >= curve[-1][f"hit_at_{k}"]
    scores = details["score_histogram"]
    vectors = read_vectors(world, "finetuned", "test")
    matrix = vectors["images"] @ vectors["texts"].T
    image, text = pairs.find_true_rows(pairs.read_pair_set(world / "data/clean/test"))
    true = np.zeros(matrix.shape, bool)
    true[image, text] = True
    assert scores["true"] == np.histogram(matrix[true].clip(-1, 1), scores["edges"])[0].tolist()
    assert scores["false"] == np.histogram(matrix[~true].clip(-1, 1), scores["edges"])[0].tolist()
    assert (sum(scores["true"]), sum(scores["false"])) == (36, 12 * 28 - 36)
    hubs = details["hubs"]["i2t"]
    first = np.argsort(-matrix, axis=1, kind="stable")[:, : hubs["k"]]
    times = np.bincount(first.ravel(), minlength=28)
    ids = pairs.read_pair_set(world / "data/clean/test").texts["text_id"].to_pylist()
    expected = [{"id": ids[row], "times": int(times[row])} for row in np.argsort(-times, kind="stable")[:10]]
    assert hubs == {"k": 10, "top": expected}


@pytest.mark.parametrize(
    ("direction", "asking", "asked"), [("t2i", "texts", "images"), ("i2t", "images", "texts")]
)
def test_the_probability_is_fitted_on_the_first_answers_of_valid_and_judged_on_those_of_test(
    world, direction, asking, asked
):
    run(world, "baseline")
    calibration = json.loads((world / "results/baseline/details.json").read_text())["calibration"][direction]
    assert list(calibration) == ["cosine"]
    firsts = {}
    for name in ("valid", "test"):
        vectors = read_vectors(world, "baseline", name)
        scores = vectors[asking] @ vectors[asked].T
        image, text = pairs.find_true_rows(pairs.read_pair_set(world / "data/clean" / name))
        query, item = (text, image) if direction == "t2i" else (image, text)
        true = set(zip(query.tolist(), item.tolist(), strict=True))
        right = [(row, int(item)) in true for row, item in enumerate(scores.argmax(axis=1))]
        firsts[name] = FirstAnswers(scores.max(axis=1), np.array(right))
    assert calibration["cosine"] == measure_calibration(firsts["valid"], firsts["test"])
    assert 0 < calibration["cosine"]["right"] < 1


def test_false_pairs_beyond_a_number_are_drawn(world, monkeypatch):
    monkeypatch.setattr(details, "FALSE_PAIRS", 100)
    run(world)
    scores = json.loads((world / "results/finetuned/details.json").read_text())["score_histogram"]
    assert sum(scores["true"]) == 36
    assert 50 < sum(scores["false"]) < 100  # without true pairs and those drawn twice


def test_a_matching_sets_labels_give_the_auc(world):
    folder = world / "data/clean/test"
    test = pairs.read_pair_set(folder)
    labels = pa.array([0 if n % 3 == 0 else 1 for n in range(len(test.pairs))], pa.int8())
    labelled = test.pairs.set_column(3, pairs.PAIRS.field("label"), labels)
    column, colours = pairs.IMAGES.get_field_index("group"), np.repeat([*"红绿蓝黄"], 3)  # three pictures each
    images = test.images.set_column(column, pairs.IMAGES.field("group"), pa.array(colours))
    pairs.write_pair_set(folder, pairs.PairSet(images, test.texts, labelled))
    metrics = run(world, "baseline")
    vectors = read_vectors(world, "baseline", "test")
    scores = vectors["images"] @ vectors["texts"].T
    made = pairs.read_pair_set(folder)
    asked = pairs.find_true_rows(made), pairs.find_unfit_rows(made)
    fitting, unfitting = (scores[rows] for rows in asked)
    wins = [(a > b) + (a == b) / 2 for a in fitting for b in unfitting]
    assert metrics["test"]["auc"] == pytest.approx(np.mean(wins), abs=1e-6)
    fits, groups = np.arange(36) < len(fitting), colours[np.concatenate([image for image, _ in asked])]
    known = load_params(world / "params.yaml").evaluate
    low, high = resampling.compute_auc_interval(
        np.concatenate([fitting, unfitting]), fits, groups, known.bootstrap_samples, known.seed
    )
    assert metrics["test"]["auc_low"] == pytest.approx(low, abs=1e-6)
    assert metrics["test"]["auc_high"] == pytest.approx(high, abs=1e-6)
    assert metrics["test"]["unfit_pairs"] == len(unfitting) == 12
    assert "auc" not in metrics["valid"]


def test_the_banks_pairs_have_the_models_cosine_the_lowest_first(world):
    folder = world / "data/clean/bank"
    bank = pairs.read_pair_set(folder)
    unfit = pa.array(
        [0 if name == "p03" else None if name == "p04" else 1 for name in bank.pairs["pair_id"].to_pylist()]
    )
    labels = bank.pairs.set_column(3, pairs.PAIRS.field("label"), unfit.cast(pa.int8()))
    pairs.write_pair_set(folder, pairs.PairSet(bank.images, bank.texts, labels))
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
    under = np.array(list(expected.values())) < load_params(world / "params.yaml").pairs.min_cosine
    assert 0 < under.mean() < 1
    assert metrics == {
        "pairs": 35,
        "mean_cosine": pytest.approx(np.mean(list(expected.values())), abs=1e-5),
        "share_under_min_cosine": pytest.approx(under.mean(), abs=1e-6),
    }


def test_a_picture_without_texts_is_a_distractor_and_no_query(world):
    folder = world / "data/clean/test"
    test = pairs.read_pair_set(folder)
    kept = test.pairs.filter([image != "图11.png" for image in test.pairs["image_id"].to_pylist()])
    pairs.write_pair_set(folder, pairs.PairSet(test.images, test.texts, kept))
    metrics = run(world)["test"]
    assert (metrics["images"], metrics["i2t_queries"]) == (12, 11)
    assert (metrics["texts"], metrics["t2i_queries"]) == (28, 26)


def test_groups_that_the_source_does_not_know_are_the_pictures(world):
    folder = world / "data/clean/test"
    test = pairs.read_pair_set(folder)
    bare = test.images.set_column(2, "group", pa.nulls(12, pa.string()))
    pairs.write_pair_set(folder, pairs.PairSet(bare, test.texts, test.pairs))
    run(world)
    rows = pairs.read_table(world / "results/finetuned/ranks.parquet").to_pylist()
    assert {row["group"] for row in rows if row["query_id"] == "name-03"} == {"图03.png"}


def test_the_calibrated_cosine_parts_true_pairs_from_shuffled_ones_though_some_true_ones_are_wrong():
    draw = np.random.default_rng(0)
    shuffled = draw.normal(0.1, 0.05, 8000)
    for wrong in (0.0, 0.1, 0.4):
        true = np.where(draw.random(2000) < wrong, draw.normal(0.1, 0.05, 2000), draw.normal(0.35, 0.06, 2000))
        least = choose_min_cosine(true, shuffled)
        assert 0.18 < least < 0.26
        assert (true < least).mean() == pytest.approx(wrong, abs=0.03)
    assert choose_min_cosine(np.array([0.1, 0.2]), np.array([])) == -1.0
    assert choose_min_cosine(np.array([0.1, 0.2]), np.array([0.5, 0.6])) == -1.0  # a model that knows the opposite


def exchange_captions(root: Path, number: int) -> None:
    """Give the first `number` of the bank's texts the vectors of others."""
    path = root / "embeddings/baseline/bank/texts.npy"
    texts = np.load(path)
    texts[:number] = np.roll(texts[:number], number // 2, axis=0)
    np.save(path, texts)


@pytest.mark.parametrize(("severity", "code", "head"), [("critical", 1, "error: "), ("warning", 0, "warning: ")])
def test_a_bank_of_exchanged_captions_is_told_or_ends_the_stage(
    world, write_params, run_stage, severity, code, head
):
    write_params(world, pairs={"min_cosine": "auto", "max_share": 0.3, "severity": severity})
    done = run_stage(world, "evaluate", "baseline")
    assert (done.returncode, done.stderr) == (0, "")  # as it is
    exchange_captions(world, 24)
    done = run_stage(world, "evaluate", "baseline")
    assert done.returncode == code
    bank = json.loads((world / "results/baseline/metrics.json").read_text())["bank"]
    share = bank["share_under_min_cosine"]
    assert 0.4 < share < 0.9
    table = pairs.read_table(world / "results/baseline/pair_cosines.parquet")
    lowest = ", ".join(table["pair_id"].to_pylist()[:5])
    assert done.stderr.startswith(
        f"{head}results/baseline/pair_cosines.parquet: {100 * share:.1f} % of 36 pairs have a cosine under "
        f"{bank['min_cosine']:g}, expected 30 % at most (params.yaml: pairs.max_share); the lowest: {lowest}. "
    )
    assert "mend the source, or raise pairs.max_share" in done.stderr


def test_without_a_least_cosine_none_is_judged(world, write_params):
    write_params(world, pairs={"min_cosine": None, "max_share": 0.0, "severity": "critical"})
    assert run(world, "baseline")["bank"].keys() == {"pairs", "mean_cosine"}
