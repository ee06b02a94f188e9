"""Our hit@k against two public evaluators, built here from their definitions on the same embeddings.

cn_clip (eval/make_topk_predictions.py, eval/evaluation.py): the whole gallery sorted by score, stably, so ties
stay in gallery order; a text is a hit where any of its images stands among the first k.
CLIP_benchmark (metrics/zeroshot_retrieval.py): torch.topk over the score matrix, each text has one image; recall =
true positives among k / positives, reported as the share of queries with more than none. Its order of ties is
torch's own, so its cases here have none.
"""

import json

import numpy as np
import pytest
import torch
from cn_clip.eval.evaluation import compute_score
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.vectors import unit
from tuwen.retrieval import metrics
from tuwen.retrieval.vectors import RetrievalTask

KS = (1, 5, 10)


def with_ties(seed):
    """Texts with one to three images each, many images and texts alike to the bit; coordinates of few digits."""
    random = np.random.default_rng(seed)
    kinds = random.integers(-2, 3, size=(6, 4)).astype(np.float32)
    kinds[:, 0] = 3  # no zero vector; dot products are small whole numbers, exact in every precision
    images, texts = kinds[random.integers(6, size=14)], kinds[random.integers(6, size=20)]
    truth = {text: random.choice(14, size=random.integers(1, 4), replace=False).tolist() for text in range(20)}
    return images, texts, truth


def cn_clip_predictions(texts, images):
    predictions = {}
    for text_id, text in enumerate(texts):
        scored = [(image_id, float(text @ image)) for image_id, image in enumerate(images)]
        predictions[text_id] = [i for i, _ in sorted(scored, key=lambda one: one[1], reverse=True)[:10]]
    return predictions


def cn_clip_scores(predictions, truth):
    found = [
        sum(any(image in predictions[text][:k] for image in true) for text, true in truth.items()) / len(truth)
        for k in KS
    ]
    return [sum(found) / 3, *found]


def our_scores(texts, images, truth):
    pairs = np.array([(text, image) for text, true in truth.items() for image in true])
    judged = metrics.judge_queries(RetrievalTask(texts, images, pairs[:, 0], pairs[:, 1]), KS)
    found = metrics.compute_hits(judged, KS).mean(axis=0)
    return [found.mean(), *found]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_cn_clips_recall_and_mean_recall_ties_included(seed):
    images, texts, truth = with_ties(seed)
    assert our_scores(texts, images, truth) == pytest.approx(
        cn_clip_scores(cn_clip_predictions(texts, images), truth), abs=1e-12
    )


def test_cn_clips_own_script_gives_these_figures(tmp_path):
    images, texts, truth = with_ties(7)
    rows = {"truth": truth, "predictions": cn_clip_predictions(texts, images)}
    for name, found in rows.items():
        lines = [json.dumps({"text_id": text, "image_ids": ids}) for text, ids in found.items()]
        (tmp_path / name).write_text("\n".join(lines))
    scores = compute_score(tmp_path / "truth", tmp_path / "predictions")
    assert scores == pytest.approx([100 * score for score in our_scores(texts, images, truth)], abs=1e-9)


def clip_benchmark_recall(scores, positive, k):
    """[queries]: found positives among torch's first k over all positives."""
    first = torch.topk(scores, k, dim=1).indices
    return positive.gather(1, first).sum(dim=1) / positive.sum(dim=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_clip_benchmarks_retrieval_in_both_directions(seed, captions):
    random = np.random.default_rng(seed)
    images = unit(random.normal(size=(17, 8)))
    image_of = np.concatenate([np.arange(17), random.integers(17, size=17 * (captions - 1))])
    texts = unit(images[image_of] + random.normal(size=(len(image_of), 8)))
    scores = torch.from_numpy(texts) @ torch.from_numpy(images).T
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.from_numpy(image_of)] = True
    text = np.arange(len(texts))
    t2i = metrics.judge_queries(RetrievalTask(texts, images, text, image_of), KS)
    i2t = metrics.judge_queries(RetrievalTask(images, texts, image_of, text), KS)
    for judged, score, true in ((t2i, scores, positive), (i2t, scores.T, positive.T)):
        hit, share = (
            metrics.compute_hits(judged, KS),
            metrics.compute_recalls(judged, KS),
        )
        for column, k in enumerate(KS):
            expected = clip_benchmark_recall(score, true, k)
            assert hit[:, column].mean() == pytest.approx(float((expected > 0).float().mean()), abs=1e-6)
            np.testing.assert_allclose(share[:, column], expected.numpy(), atol=1e-6)
