"""What each form of a gallery answers right."""

import numpy as np
import pytest

from tests.support.vectors import unit
from tuwen.retrieval.metrics import compute_hits, judge_queries
from tuwen.retrieval.quantised.recall import cut_vectors, list_forms, measure_form
from tuwen.retrieval.vectors import RetrievalTask

DRAW, KS = np.random.default_rng(0), (1, 5)
GALLERY = unit(DRAW.normal(size=(200, 64)))
TASK = RetrievalTask(unit(GALLERY + DRAW.normal(scale=0.3, size=GALLERY.shape)), GALLERY, *[np.arange(200)] * 2)


def test_forms_are_each_dtype_the_signs_alone_and_each_prefix() -> None:
    assert [tuple(form) for form in list_forms(64, [32])] == [
        ("float32", 64, 256, 256),
        ("float16", 64, 128, 128),
        ("int8", 64, 64, 64),
        ("binary", 64, 8, 72),
        ("signs", 64, 8, 8),
        ("float32", 32, 128, 128),
    ]


def test_whole_vectors_and_prefixes_have_the_hits_of_a_plain_evaluation() -> None:
    whole, *_, shorter = list_forms(64, [32])
    assert measure_form(TASK, whole, KS) == compute_hits(judge_queries(TASK, KS), KS).mean(axis=0).tolist()
    halves = [one[:, :32] / np.linalg.norm(one[:, :32], axis=1, keepdims=True) for one in TASK[:2]]
    half = RetrievalTask(*(one.astype(np.float32) for one in halves), *TASK[2:])
    assert measure_form(TASK, shorter, KS) == compute_hits(judge_queries(half, KS), KS).mean(axis=0).tolist()
    assert np.array_equal(cut_vectors(GALLERY, 64), GALLERY)


def test_fewer_bytes_cost_recall_and_scoring_anew_gives_it_back() -> None:
    hits = {form.dtype: measure_form(TASK, form, KS)[0] for form in list_forms(64, [])}
    assert hits["float32"] == pytest.approx(hits["float16"], abs=0.005)
    assert hits["float32"] == pytest.approx(hits["int8"], abs=0.02)
    assert hits["signs"] < hits["binary"] - 0.05
    assert hits["binary"] <= hits["float32"] + 0.005
