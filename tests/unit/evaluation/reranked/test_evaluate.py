"""A re-ranked model is measured by the order that its score gives, beside the order before it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.reranker_world import DEPTH, build_reranked, move_towers, score_all
from tuwen.core.errors import UserError
from tuwen.core.params import load_params
from tuwen.data.formats import manifest, pairs
from tuwen.evaluation.details import read_details
from tuwen.evaluation.models import MODELS
from tuwen.evaluation.ranks import read_ranks
from tuwen.evaluation.reranked.evaluate import MeasuredReranker, evaluate_reranked
from tuwen.evaluation.results import list_measured, read_metrics
from tuwen.retrieval.calibration import FirstAnswers, measure_calibration
from tuwen.retrieval.rerank_choice import WEIGHTS

KS = [1, 5, 10]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A re-ranker that was measured, of sets with eight pairs that do not fit."""
    root = tmp_path_factory.mktemp("reranked")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("TUWEN_WORKERS", "1")
        build_reranked(root, unfit=8)
        measure(root)
    return root


def measure(root: Path) -> MeasuredReranker:
    folders = (
        root / "models/reranked",
        root / "embeddings/finetuned",
        root / "data/clean",
        root / "results/reranked",
    )
    return evaluate_reranked(*folders, load_params(root / "params.yaml").evaluate)


def metrics_of(root: Path, name: str) -> dict[str, float]:
    values: dict[str, float] = json.loads((root / "results/reranked/metrics.json").read_text())[name]
    return values


def rank_best(root: Path, name: str, direction: str, k: int, weight: float) -> list[int]:
    """The best rank of each query's true items, by a plain sort of each row of scores."""
    cosine, match = score_all(root, name)
    tables = pairs.read_pair_set(root / "data/clean" / name)
    image, text = pairs.find_true_rows(tables)
    true = set(zip(text.tolist(), image.tolist(), strict=True))
    if direction == "i2t":
        cosine, match, true = cosine.T, match.T, {(i, t) for t, i in true}
    best = []
    for query, row in enumerate(cosine):
        order = np.argsort(-row, kind="stable").tolist()
        score = match[query] + weight * row
        order = [*sorted(order[:k], key=lambda item: -score[item]), *order[k:]]
        ranks = [place for place, item in enumerate(order, 1) if (query, item) in true]
        best += ranks[:1]
    return best


def mean_hits(best: list[int]) -> float:
    return float(np.mean([[rank <= k for k in KS] for rank in best]))


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_depth_and_weight_are_the_best_on_valid_and_give_the_ranks_of_test(world: Path, direction: str) -> None:
    details = read_details(world / "results/reranked/details.json", KS)
    assert details.reranking
    chosen = details.reranking[direction]
    tried = {
        (k, weight): mean_hits(rank_best(world, "valid", direction, k, weight))
        for k in (2, 4, DEPTH)
        for weight in WEIGHTS
    }
    assert tried[chosen.k, chosen.weight] == pytest.approx(max(tried.values()))
    best = [choice for choice, value in tried.items() if value > max(tried.values()) - 1e-9]
    assert (chosen.k, chosen.weight) == min(best, key=lambda choice: (choice[0], -choice[1]))
    expected = rank_best(world, "test", direction, chosen.k, chosen.weight)
    ranked = read_ranks(world / "results/reranked/ranks.parquet", KS)[direction]
    assert ranked.judged.best_rank.tolist() == expected
    assert [point["k"] for point in chosen.curve] == [1, 2, 4, DEPTH]
    for point in chosen.curve:
        ranks = np.array(rank_best(world, "test", direction, int(point["k"]), chosen.weight))
        assert [point[f"hit_at_{k}"] for k in KS] == pytest.approx([(ranks <= k).mean() for k in KS], abs=1e-6)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_the_probability_has_a_curve_for_either_order(world: Path, direction: str) -> None:
    details = read_details(world / "results/reranked/details.json", KS)
    assert details.reranking
    assert details.calibration
    chosen, orders = details.reranking[direction], details.calibration[direction]
    best = rank_best(world, "test", direction, 1, 0)
    assert orders.cosine.right == pytest.approx(np.mean(np.array(best) == 1), abs=1e-6)
    firsts = {name: list_firsts(world, name, direction, chosen.k, chosen.weight) for name in ("valid", "test")}
    assert chosen.k > 1
    assert orders.reranked
    due, own = measure_calibration(firsts["valid"], firsts["test"]), orders.reranked.model_dump()
    names = ("slope", "intercept", "fitted_on", "queries", "right", "brier", "ece")
    assert [own[name] for name in names] == pytest.approx([due[name] for name in names], rel=1e-3)


def list_firsts(root: Path, name: str, direction: str, k: int, weight: float) -> FirstAnswers:
    """The highest score of each query among its first k, and whether it is of a true item."""
    cosine, match = score_all(root, name)
    best = rank_best(root, name, direction, k, weight)
    if direction == "i2t":
        cosine, match = cosine.T, match.T
    scores = [
        max(match[query][item] + weight * row[item] for item in np.argsort(-row, kind="stable")[:k])
        for query, row in enumerate(cosine)
    ]
    return FirstAnswers(np.array(scores), np.array(best) == 1)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_the_change_over_the_order_before_is_paired(world: Path, direction: str) -> None:
    values, before = metrics_of(world, "test"), np.array(rank_best(world, "test", direction, 1, 0))
    for k in KS:
        change = values[f"{direction}_hit_at_{k}"] - (before <= k).mean()
        assert values[f"{direction}_rerank_gain_at_{k}"] == pytest.approx(change, abs=1e-6)
        low, high = (values[f"{direction}_rerank_gain_at_{k}_{end}"] for end in ("low", "high"))
        assert low <= values[f"{direction}_rerank_gain_at_{k}"] <= high
    mean = np.mean([values[f"{direction}_rerank_gain_at_{k}"] for k in KS])
    assert values[f"{direction}_rerank_gain_mean"] == pytest.approx(mean, abs=1e-6)
    details = read_details(world / "results/reranked/details.json", KS)
    assert details.reranking
    sure = metrics_of(world, "valid")[f"{direction}_rerank_gain_mean_low"] > 0
    assert details.reranking[direction].sure_on_valid == sure


def test_pairs_that_do_not_fit_are_told_by_the_probability(world: Path) -> None:
    cosine, match = score_all(world, "test")
    tables = pairs.read_pair_set(world / "data/clean/test")
    image, text = pairs.find_true_rows(tables)
    unfit_image, unfit_text = pairs.find_unfit_rows(tables)
    values = metrics_of(world, "test")
    for name, score in (("auc", cosine), ("match_auc", match)):
        above = score[text, image][:, None] > score[unfit_text, unfit_image]
        assert values[name] == pytest.approx(above.mean(), abs=1e-3)
        assert values[f"{name}_low"] < values[name] < values[f"{name}_high"]
    assert values["auc"] != values["match_auc"]


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same re-ranker with towers of its own, measured."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(world, root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("TUWEN_WORKERS", "1")
        move_towers(root)
        measure(root)
    return root


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_trained_towers_find_by_their_own_vectors_and_gain_over_the_fine_tuned_model(
    world: Path, trained: Path, direction: str
) -> None:
    details = read_details(trained / "results/reranked/details.json", KS)
    assert details.reranking
    chosen = details.reranking[direction]
    ranks = rank_best(trained, "test", direction, chosen.k, chosen.weight)
    ranked = read_ranks(trained / "results/reranked/ranks.parquet", KS)[direction]
    assert ranked.judged.best_rank.tolist() == ranks
    own, tuned = (np.array(rank_best(root, "test", direction, 1, 0)) for root in (trained, world))
    assert own.tolist() != tuned.tolist()
    assert [chosen.curve[0][f"hit_at_{k}"] for k in KS] == pytest.approx([(own <= k).mean() for k in KS], abs=1e-6)
    values = metrics_of(trained, "test")
    for k in KS:
        gain = (np.array(ranks) <= k).mean() - (tuned <= k).mean()
        assert values[f"{direction}_rerank_gain_at_{k}"] == pytest.approx(gain, abs=1e-6)


def test_the_same_bytes_again_and_no_times_in_them(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    files = sorted((world / "results/reranked").iterdir())
    before = {path.name: path.read_bytes() for path in files}
    names = {"details.json", "metrics.json", "pair_cosines.parquet", "ranks.parquet", "zero_shot.json"}
    assert set(before) == names
    measured = measure(world)
    assert {path.name: path.read_bytes() for path in files} == before
    assert [list(measured.costs[name]) for name in ("t2i", "i2t")] == [[2, 4, DEPTH]] * 2
    assert all(value > 0 for costs in measured.costs.values() for value in costs.values())
    read_metrics(world / "results/reranked/metrics.json", MODELS["reranked"], KS)


def test_a_re_ranker_that_is_switched_off_leaves_empty_results(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    off, results = tmp_path / "models/reranked", tmp_path / "results/reranked"
    off.mkdir(parents=True)
    manifest.write_manifest(off, {}, {"rerank": None})
    measured = evaluate_reranked(
        off, world / "embeddings/finetuned", world / "data/clean", results, load_params().evaluate
    )
    assert measured == ({}, {})
    assert {path.name for path in results.iterdir()} == {
        path.name for path in (world / "results/reranked").iterdir()
    }
    assert json.loads((results / "metrics.json").read_text()) == {}
    assert pairs.read_table(results / "ranks.parquet").num_rows == 0
    assert list_measured(tmp_path / "results") == ["baseline", "finetuned"]


def test_vectors_of_another_model_are_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    other = tmp_path / "embeddings"
    shutil.copytree(world / "embeddings/finetuned", other)
    made = (other / "test/manifest.json").read_text()
    own = json.loads(made)["inputs"]["model"]
    (other / "test/manifest.json").write_text(made.replace(own, "0" * 64))
    with pytest.raises(UserError, match=r"test/manifest\.json: made from another model"):
        evaluate_reranked(
            world / "models/reranked", other, world / "data/clean", tmp_path / "out", load_params().evaluate
        )
