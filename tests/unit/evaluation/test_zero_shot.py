"""Zero-shot classification with a small real model, and with vectors whose answers are known."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.training import COLOURS
from tuwen.core.params import Evaluate
from tuwen.data.formats import pairs
from tuwen.data.formats.text import load_tokenizer
from tuwen.evaluation import zero_shot
from tuwen.evaluation.zero_shot import ENSEMBLE, ONE_PROMPT
from tuwen.model import dual_encoder
from tuwen.retrieval import encode
from tuwen.retrieval.intervals import resampling

LABELS = ["动物和自然", "食物和饮料", "旅行和地点"]
EVALUATE = Evaluate(ks=[1, 5, 10], bootstrap_samples=200, seed=0)
SHARES = [f"{top}{end}" for top in ("top_1", "top_5") for end in ("", "_low", "_high")]


def near(folder: Path, labels: list[str]) -> np.ndarray:
    """Pictures that lie on the ensemble's class vectors."""
    loaded = dual_encoder.load_model(folder)
    return zero_shot.make_class_vectors(loaded, load_tokenizer(folder / "vocab.txt"), labels, ENSEMBLE)


def write_set(root: Path, categories: list[str | None], vectors: np.ndarray) -> tuple[Path, Path]:
    rows = [{"image_id": f"图{n}.png", "category": category} for n, category in enumerate(categories)]
    images = pairs.pa.Table.from_pylist(rows, pairs.IMAGES)
    pairs.write_pair_set(
        root / "clean/test", pairs.PairSet(images, pairs.TEXTS.empty_table(), pairs.PAIRS.empty_table())
    )
    (root / "embeddings").mkdir()
    np.save(root / "embeddings/images.npy", vectors)
    return root / "embeddings", root / "clean/test"


def test_a_class_vector_is_the_mean_of_its_prompts_brought_to_length_one(folder: Path) -> None:
    loaded, tokenizer = dual_encoder.load_model(folder), load_tokenizer(folder / "vocab.txt")
    found = zero_shot.make_class_vectors(loaded, tokenizer, LABELS, ENSEMBLE)
    for label, vector in zip(LABELS, found, strict=True):
        prompts = [template.replace("{}", label) for template in ENSEMBLE]
        mean = encode.embed_captions(loaded, tokenizer, prompts, 1).astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_the_templates_are_chinese_prompts_and_each_stands_once() -> None:
    assert 20 <= len(ENSEMBLE) == len(set(ENSEMBLE)) <= 40
    assert ENSEMBLE[0] == ONE_PROMPT == "这是一张{}图片"
    assert all(template.count("{}") == 1 for template in ENSEMBLE)


def test_shares_classes_and_confusion_equal_a_count_by_hand(folder: Path) -> None:
    first, second, third = near(folder, sorted(LABELS))
    images = np.stack([first, second, second, third, third])
    a, b, c = sorted(LABELS)
    report = zero_shot.classify_images(dual_encoder.load_model(folder), folder, images, [a, b, a, c, b], ENSEMBLE)
    assert report["classes"] == [a, b, c]
    assert (report["ensemble"]["top_1"], report["ensemble"]["top_5"]) == (0.6, 1.0)  # three classes among five
    assert report["confusion"] == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
    counted = [(one["class"], one["pictures"], one["top_1"]) for one in report["per_class"]]
    assert counted == [(a, 2, 0.5), (b, 2, 0.5), (c, 1, 1.0)]
    one = zero_shot.make_class_vectors(
        dual_encoder.load_model(folder), load_tokenizer(folder / "vocab.txt"), [a, b, c], [ONE_PROMPT]
    )
    said = (images.astype(np.float64) @ one.T.astype(np.float64)).argmax(axis=1)
    assert report["one_prompt"]["top_1"] == round(float((said == [0, 1, 0, 2, 1]).mean()), 6)


def test_five_of_many_classes(folder: Path) -> None:
    names = sorted(COLOURS)
    vectors = near(folder, names)
    report = zero_shot.classify_images(
        dual_encoder.load_model(folder), folder, vectors, [*names[1:], names[0]], ENSEMBLE
    )
    order = np.argsort(-(vectors.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)[:, :5]
    hits = [(n + 1) % len(names) in row for n, row in enumerate(order)]
    shares = report["ensemble"]
    assert (shares["top_1"], shares["top_5"]) == (0.0, round(sum(hits) / len(hits), 6))
    assert 0 < sum(hits) < len(hits)


def test_intervals_are_exact_where_few_are_right_and_the_bootstrap_s_over_groups_elsewhere(folder: Path) -> None:
    labels = sorted(LABELS)
    near_first = np.repeat(near(folder, labels)[:1], 24, axis=0)
    truth = [labels[0]] * 12 + [labels[1]] * 12
    loaded = dual_encoder.load_model(folder)
    alone = zero_shot.classify_images(loaded, folder, near_first, truth, ENSEMBLE)
    right = np.array([[1.0]] * 12 + [[0.0]] * 12)
    low, high = resampling.compute_intervals(right, np.arange(24), 2000, 0)[0]
    assert (alone["ensemble"]["top_1"], alone["ensemble"]["top_1_low"]) == (0.5, round(low, 6))
    assert 0 < alone["ensemble"]["top_1_low"] < 0.5 < alone["ensemble"]["top_1_high"] == round(high, 6) < 1
    first, second = alone["per_class"]
    assert (first["top_1_high"], second["top_1_low"]) == (1.0, 0.0)
    assert first["top_1_low"] == pytest.approx(0.025 ** (1 / 12), abs=1e-6)  # 12 of 12, by Clopper and Pearson
    assert second["top_1_high"] == pytest.approx(1 - 0.025 ** (1 / 12), abs=1e-6)
    together = zero_shot.classify_images(
        loaded, folder, near_first, truth, ENSEMBLE, groups=np.repeat(np.arange(12), 2)
    )
    assert together["ensemble"]["top_1_low"] < alone["ensemble"]["top_1_low"]  # fewer draws that are independent


def test_pictures_without_a_category_are_left_out(folder: Path, tmp_path: Path) -> None:
    vectors = near(folder, [LABELS[0], LABELS[1], LABELS[2], LABELS[1]])
    embedded, set_folder = write_set(tmp_path, [LABELS[0], None, LABELS[2], ""], vectors)
    zero_shot.evaluate_zero_shot(folder, embedded, set_folder, tmp_path / "results/m/zero_shot.json", EVALUATE)
    report = json.loads((tmp_path / "results/m/zero_shot.json").read_text(encoding="utf-8"))
    assert (report["pictures"], report["classes"]) == (2, sorted([LABELS[0], LABELS[2]]))
    assert report["ensemble"]["top_1"] == 1.0


@pytest.mark.parametrize("categories", [[None, None], ["动物", None], []])
def test_a_set_without_categories_gives_an_empty_report_and_loads_no_model(
    tmp_path: Path, categories: list[str | None]
) -> None:
    embedded, set_folder = write_set(tmp_path, categories, np.ones((len(categories), 1), np.float32))
    zero_shot.evaluate_zero_shot(
        tmp_path / "no model", embedded, set_folder, tmp_path / "zero_shot.json", EVALUATE
    )
    assert json.loads((tmp_path / "zero_shot.json").read_text()) == {
        "classes": [],
        "pictures": 0,
        "one_prompt": dict.fromkeys(SHARES, 0.0),
        "ensemble": dict.fromkeys(SHARES, 0.0),
        "per_class": [],
        "confusion": [],
    }
