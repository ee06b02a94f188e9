"""Anybody's embeddings and what belongs together -> the metrics that our own models get.

    tuwen evaluate --images A.npy --texts B.npy --relevance R.csv [--scores S.csv]

A.npy [I, D] and B.npy [T, D]: half, single or double precision, rows of any length.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuwen.core.errors import UserError
from tuwen.core.params import Evaluate
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.evaluation.answers import Answers, answer_set
from tuwen.evaluation.details import make_details
from tuwen.evaluation.embedded_set import EmbeddedSet
from tuwen.evaluation.external.arrays import ForeignArray, make_array
from tuwen.evaluation.external.relevance import Labelled, read_relevance, split_labels
from tuwen.evaluation.external.scores import read_scores, rerank_answers
from tuwen.evaluation.figures import Figures, MetricValues, measure_figures
from tuwen.retrieval import metrics
from tuwen.retrieval.intervals import resampling

NAMED = 3  # queries without a true item


def evaluate_vectors(
    images: Any, texts: Any, pairs: Any, ks: Sequence[int] = (1, 5, 10), *, unfit: Any = ()
) -> MetricValues:
    """Return the metrics of embeddings in memory by name, such as `t2i_hit_at_5`: what `tuwen evaluate` measures.

    images [I, D], texts [T, D]: floats, rows of any length. pairs [P, 2]: the image row and the text row of every
    true pair. unfit [N, 2]: pairs known not to fit; with them there is an `auc`.
    Raises UserError for NaN and zero vectors, different dimensions, a k over a gallery and unknown rows.
    """
    arrays = make_array("image", Path("images"), images), make_array("text", Path("texts"), texts)
    _check_arrays(*arrays, ks, "ks")
    labels: dict[tuple[int, int], bool] = {}
    for name, rows, fits in (("pairs", pairs, True), ("unfit", unfit, False)):
        for pair in _list_pairs(name, rows, arrays):
            if labels.setdefault(pair, fits) != fits:
                raise UserError(f"unfit: {pair} is one of pairs too; keep one of them")
    if not any(labels.values()):
        raise UserError("pairs: no true pair, so there is no truth to measure by; give one at least")
    embedded, params = _join_set(*arrays, split_labels(labels)), _make_params(ks)
    return _measure(embedded, answer_set(embedded, params), params).values


def evaluate_arrays(
    images: ForeignArray, texts: ForeignArray, relevance: Path, ks: Sequence[int], scores: Sequence[Path] = ()
) -> dict[str, Any]:
    """Return all metrics, what `details.json` holds, and of each direction how many queries were asked.

    scores: tables of a re-ranker (scores.py), at most one for each direction. Raises UserError for different
    dimensions, a k over a gallery, a bad table and a relevance table without a true pair.
    """
    _check_arrays(images, texts, ks, "-k")
    embedded, params = _join_set(images, texts, read_relevance(relevance, images, texts)), _make_params(ks)
    answers = answer_set(embedded, params)
    if scores:
        tasks = {name: embedded.make_task(direction) for name, direction in DIRECTIONS.items()}
        answers = rerank_answers(answers, tasks, read_scores(scores, images, texts), params.ks)
    figures = _measure(embedded, answers, params)
    return {
        "figures": figures.values,
        "queries": {name: _count_queries(embedded, answers[name], name) for name in DIRECTIONS},
        **make_details(embedded, answers, {}, params, figures.exact),
    }


def _list_pairs(name: str, rows: Any, arrays: Sequence[ForeignArray]) -> list[tuple[int, int]]:
    rows_P2 = np.asarray(rows)
    if not rows_P2.size:
        return []
    if rows_P2.ndim != 2 or rows_P2.shape[1] != 2 or not np.issubdtype(rows_P2.dtype, np.integer):
        raise UserError(f"{name}: (image row, text row) per pair expected, got {rows_P2.dtype} {rows_P2.shape}")
    for column, array in zip(rows_P2.T, arrays, strict=True):
        low, high, last = column.min(), column.max(), len(array.vectors) - 1
        if low < 0 or high > last:
            raise UserError(f"{name}: {array.path} has the rows 0 to {last}, got {low} to {high}")
    return [(image, text) for image, text in rows_P2.tolist()]


def _check_arrays(images: ForeignArray, texts: ForeignArray, ks: Sequence[int], option: str) -> None:
    dimensions = [len(one.vectors[0]) for one in (images, texts)]
    if dimensions[0] != dimensions[1]:
        raise UserError(
            f"{images.path} has {dimensions[0]} dimensions, {texts.path} has {dimensions[1]}; "
            "both must come from the same model"
        )
    if not ks or min(ks) < 1 or len(set(ks)) != len(ks):
        raise UserError(f"{option}: {list(ks)} must be different numbers from 1 on")
    for one in (images, texts):
        metrics.check_ks(ks, len(one.vectors), f"{option}, {one.path}")


def _make_params(ks: Sequence[int]) -> Evaluate:
    return Evaluate.model_construct(ks=sorted(ks), bootstrap_samples=resampling.SAMPLES, seed=resampling.SEED)


def _join_set(images: ForeignArray, texts: ForeignArray, labelled: Labelled) -> EmbeddedSet:
    image, text, fits = labelled
    return EmbeddedSet(
        images=images.vectors,
        texts=texts.vectors,
        image=image[fits],
        text=text[fits],
        image_groups=images.groups,
        unfit=(image[~fits], text[~fits]),
        ids={"images": images.names, "texts": texts.names},
    )


def _measure(embedded: EmbeddedSet, answers: Mapping[str, Answers], params: Evaluate) -> Figures:
    counts = {"images": len(embedded.images), "texts": len(embedded.texts), "pairs": len(embedded.image)}
    figures = measure_figures(embedded, answers, params)
    return figures._replace(values=counts | figures.values)


def _count_queries(embedded: EmbeddedSet, answers: Answers, direction: str) -> dict[str, Any]:
    """Return how many queries were asked, how many have no true item and so were not, and some of these."""
    ids = embedded.ids[DIRECTIONS[direction].queries]
    unasked = np.setdiff1d(np.arange(len(ids)), answers.judged.query)
    return {
        "asked": len(answers.judged.query),
        "without_truth": len(unasked),
        "such_as": [ids[row] for row in unasked[:NAMED].tolist()],
    }
