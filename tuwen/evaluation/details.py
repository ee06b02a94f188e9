"""details.json: what the report draws of one pool, besides its figures: curves, score histograms, hubs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tuwen.core.params import Evaluate
from tuwen.evaluation.figures import DIGITS, DIRECTIONS, Answers, Pool, cosines, side
from tuwen.retrieval import metrics, qb_norm
from tuwen.retrieval.vectors import Rows

HUBS = 10  # named
SCORE_EDGES = np.linspace(-1, 1, 201).round(2)  # the same for every model, so that histograms compare
FALSE_PAIRS = 1 << 18  # scored for the histogram; all of them where there are no more


def make_details(
    pool: Pool,
    answers: Mapping[str, Answers],
    ids: Mapping[str, Sequence[str]],
    betas: Mapping[str, float],
    params: Evaluate,
) -> dict[str, Any]:
    """What becomes details.json; by direction, ids: names of the gallery's rows, betas: QB-Norm's temperature."""
    curves, hubs = {}, {}
    for direction in DIRECTIONS:
        found, gallery = answers[direction], len(side(pool, direction).gallery)
        sizes = metrics.choose_gallery_sizes(gallery, max(params.ks))
        curve_SK = metrics.compute_gallery_curve(found.judged, gallery, sizes, params.ks)
        curves[direction] = [
            {"gallery": size, **{f"hit_at_{k}": hit for k, hit in zip(params.ks, hit_K, strict=True)}}
            for size, hit_K in zip(sizes, curve_SK.round(DIGITS).tolist(), strict=True)
        ]
        times = qb_norm.count_occurrences(found.first, gallery)
        top = [{"id": ids[direction][row], "times": int(times[row])} for row in qb_norm.find_hubs(times, HUBS)]
        hubs[direction] = {"k": found.first.shape[1], "top": top}
    return {
        "gallery_curve": curves,
        "score_histogram": score_histogram(pool, params.seed),
        "hubs": hubs,
        "qbnorm": {direction: {"beta": beta} for direction, beta in betas.items()},
    }


def score_histogram(pool: Pool, seed: int) -> dict[str, list[Any]]:
    """Counts of the cosines of all true pairs and of false ones, at most FALSE_PAIRS of these, drawn by `seed`.

    False: not a true pair. Edges in equal steps over [-1, 1]; a cosine beyond by rounding stands in the last bin.
    """
    image, text = _false_pairs(pool, seed)
    scores = {
        "true": cosines(pool.images, pool.texts, pool.image, pool.text),
        "false": cosines(pool.images, pool.texts, image, text),
    }
    counts = {name: np.histogram(score.clip(-1, 1), SCORE_EDGES)[0].tolist() for name, score in scores.items()}
    return {"edges": SCORE_EDGES.tolist(), **counts}


def _false_pairs(pool: Pool, seed: int) -> tuple[Rows, Rows]:
    every, texts = len(pool.images) * len(pool.texts), len(pool.texts)
    if every <= FALSE_PAIRS:
        pair = np.arange(every)
    else:
        pair = np.unique(np.random.default_rng(seed).integers(every, size=FALSE_PAIRS))
    pair = pair[~np.isin(pair, pool.image * texts + pool.text)]
    return pair // texts, pair % texts
