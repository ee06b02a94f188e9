"""Matching, ICM and IQM: how well a score tells pairs that fit from pairs known not to, as an AUC.

Shapes: P true pairs, N pairs known not to fit.
"""

import numpy as np

from tuwen.core.params import Evaluate
from tuwen.evaluation.embedded_set import EmbeddedSet, score_pairs
from tuwen.evaluation.metric import Estimate
from tuwen.retrieval import metrics
from tuwen.retrieval.intervals import resampling
from tuwen.retrieval.vectors import Floats, Rows


def list_judged_pairs(embedded: EmbeddedSet) -> tuple[Rows, Rows]:
    """Return the image rows and the text rows [P + N] of the true pairs, then of those known not to fit."""
    image, text = embedded.unfit
    return np.concatenate([embedded.image, image]), np.concatenate([embedded.text, text])


def count_unfit_pairs(embedded: EmbeddedSet, params: Evaluate) -> Estimate | None:
    """Count the pairs known not to fit; None where the set knows of none."""
    return Estimate(len(embedded.unfit[0])) if len(embedded.unfit[0]) else None


def measure_auc(embedded: EmbeddedSet, params: Evaluate) -> Estimate | None:
    """Return the AUC of the pairs that fit against those that do not; None where the set knows of none."""
    if not len(embedded.unfit[0]):
        return None
    return _estimate_auc(
        score_pairs(embedded.images, embedded.texts, *list_judged_pairs(embedded)), embedded, params
    )


def measure_match_auc(embedded: EmbeddedSet, params: Evaluate) -> Estimate | None:
    """Return the AUC by a re-ranker's probability; None without one, and as `measure_auc`."""
    if embedded.match is None or not len(embedded.unfit[0]):
        return None
    return _estimate_auc(embedded.match, embedded, params)


def _estimate_auc(score: Floats, embedded: EmbeddedSet, params: Evaluate) -> Estimate:
    """Return the AUC with its interval; score [P + N]: of the pairs of `list_judged_pairs`."""
    fits = np.arange(len(score)) < len(embedded.image)
    groups = embedded.image_groups[list_judged_pairs(embedded)[0]]
    low, high = resampling.compute_auc_interval(score, fits, groups, params.bootstrap_samples, params.seed)
    return Estimate(metrics.compute_auc(score, fits), float(low), float(high))
