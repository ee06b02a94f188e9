import numpy as np
import pytest

from tuwen.report import examples
from tuwen.retrieval.vectors import RetrievalTask


def test_choose_takes_best_worst_and_random():
    baseline, finetuned = np.array([9, 2, 3, 1, 8]), np.array([1, 5, 1, 1, 7])
    kinds = examples.choose_queries(baseline, finetuned, count=2, seed=0)
    assert kinds["best"].tolist() == [0, 2]  # both at rank 1, from rank 9 and from rank 3
    assert kinds["worst"].tolist() == [4, 1]
    assert len(set(kinds["random"].tolist())) == 2
    assert [len(chosen) for chosen in examples.choose_queries(baseline, finetuned, count=9, seed=0).values()] == [
        5,
        5,
        5,
    ]


def test_answers_mark_the_true_items_and_add_one_that_comes_late():
    gallery = np.eye(8, dtype=np.float32)
    query = np.array([[8, 7, 6, 5, 4, 3, 2, 1], [1, 8, 7, 6, 5, 4, 3, 2]], np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    # the first query is true for items 1 and 6, the second for item 0 alone, which is its last
    task = RetrievalTask(query, gallery, np.array([0, 1, 0]), np.array([6, 0, 1]))
    shown = examples.answer_queries([0, 1], {"m": task})
    first, second = shown[0].answers["m"], shown[1].answers["m"]
    assert [(a.row, a.rank, a.is_true) for a in first] == [
        (0, 1, False),
        (1, 2, True),
        (2, 3, False),
        (3, 4, False),
        (4, 5, False),
    ]
    assert [(a.row, a.rank, a.is_true) for a in second[-2:]] == [(5, 5, False), (0, 8, True)]
    assert (shown[0].best_rank("m"), shown[1].best_rank("m")) == (2, 8)
    assert second[-1].score == pytest.approx(query[1, 0])
