"""The order after re-ranking, against plain Python; ties; small galleries."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.reranker import CAPTIONS, TOKENIZER, make_reranker, make_sides
from tests.support.vectors import unit
from tuwen.core.errors import UserError
from tuwen.retrieval import match_pairs
from tuwen.retrieval.match_pairs import compute_matches
from tuwen.retrieval.rerank import Matches, find_matches, rerank
from tuwen.retrieval.search import top_k
from tuwen.retrieval.vectors import RetrievalTask

IMAGES = 9


def draw_vectors() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    return {"images": unit(draw.normal(size=(IMAGES, 16))), "texts": unit(draw.normal(size=(len(CAPTIONS), 16)))}


def draw_matches(queries: int, gallery: int, k: int) -> tuple[RetrievalTask, Matches]:
    """A task with several true items a query, and made-up probabilities, many of them equal."""
    draw = np.random.default_rng(3)
    vectors = unit(draw.normal(size=(queries + gallery, 8)))
    pairs = np.stack([draw.integers(0, queries, 3 * queries), draw.integers(0, gallery, 3 * queries)])
    task = RetrievalTask(vectors[:queries], vectors[queries:], *pairs)
    rows, cosine = top_k(task.queries, task.gallery, k)
    return task, Matches(rows, cosine, draw.choice([0.25, 0.5, 0.75], size=rows.shape).astype(np.float32))


def order_plainly(matches: Matches, k: int, weight: float) -> list[list[int]]:
    """Sort the first k of each query by score, then by gallery row."""
    answers = []
    for rows, cosines, probabilities in zip(*map(np.ndarray.tolist, matches), strict=True):
        scored = [(-(p + weight * c), row) for row, c, p in zip(rows, cosines, probabilities, strict=True)]
        answers.append([row for _, row in sorted(scored[:k])] + rows[k:])
    return answers


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 1e9])
@pytest.mark.parametrize("k", [1, 4, 10])
def test_the_first_k_are_ordered_by_score_and_the_rest_stays(k: int, weight: float) -> None:
    _, matches = draw_matches(20, 30, 10)
    assert rerank(matches, k, weight).tolist() == order_plainly(matches, k, weight)


def test_equal_scores_stand_in_the_order_of_the_gallery() -> None:
    rows, cosine = np.array([[7, 2, 5, 0]]), np.array([[0.9, 0.9, 0.8, 0.1]], np.float32)
    matches = Matches(rows, cosine, np.full((1, 4), 0.5, np.float32))
    assert rerank(matches, 4, 0.0).tolist() == [[0, 2, 5, 7]]
    assert rerank(matches, 3, 1.0).tolist() == [[2, 7, 5, 0]]


def test_the_first_of_the_cosine_are_scored_in_both_directions(tmp_path: Path) -> None:
    reranker, sides, vectors = make_reranker(), make_sides(IMAGES), draw_vectors()
    found = find_matches(reranker, TOKENIZER, sides, vectors, 4, ["t2i", "i2t"], tmp_path)
    texts, images = vectors["texts"], vectors["images"]
    for name, (queries, gallery) in {"t2i": (texts, images), "i2t": (images, texts)}.items():
        rows, cosine = top_k(queries, gallery, 4)
        np.testing.assert_array_equal(found[name].rows, rows)
        np.testing.assert_array_equal(found[name].cosine, cosine)
        query = np.repeat(np.arange(len(rows)), 4)
        image, text = (rows.ravel(), query) if name == "t2i" else (query, rows.ravel())
        alone = compute_matches(reranker, TOKENIZER, sides, image, text, tmp_path)
        np.testing.assert_allclose(found[name].match.ravel(), alone, atol=1e-5)
        assert found[name].match.shape == (len(queries), 4)


def test_a_pair_that_both_directions_name_is_scored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker, sides, vectors, scored = make_reranker(), make_sides(IMAGES), draw_vectors(), []
    score = match_pairs._score_pass
    monkeypatch.setattr(
        match_pairs, "_score_pass", lambda *given: scored.append(len(given[1][0][-1])) or score(*given)
    )
    find_matches(reranker, TOKENIZER, sides, vectors, IMAGES, ["t2i", "i2t"], tmp_path)
    assert sum(scored) == IMAGES * len(CAPTIONS)


def test_of_a_gallery_of_fewer_items_all_are_ordered_anew(tmp_path: Path) -> None:
    reranker, sides, vectors = make_reranker(), make_sides(IMAGES), draw_vectors()
    found = find_matches(reranker, TOKENIZER, sides, vectors, 128, ["i2t"], tmp_path)["i2t"]
    assert found.rows.shape == (IMAGES, len(CAPTIONS))
    assert {tuple(sorted(rows)) for rows in rerank(found, 128, 0.5).tolist()} == {tuple(range(len(CAPTIONS)))}


def test_no_queries_and_no_gallery(tmp_path: Path) -> None:
    reranker, sides, vectors = make_reranker(), make_sides(IMAGES), draw_vectors()
    none = {"texts": vectors["texts"][:0], "images": vectors["images"]}
    found = find_matches(reranker, TOKENIZER, sides, none, 4, ["t2i"], tmp_path)["t2i"]
    assert [field.shape for field in found] == [(0, 4)] * 3
    assert rerank(found, 4, 1.0).shape == (0, 4)
    with pytest.raises(UserError, match="there is nothing to search in"):
        find_matches(reranker, TOKENIZER, sides, none, 4, ["i2t"], tmp_path)
