"""Hubs, the gallery items that too many queries find, and how uneven answers are over a gallery."""

import numpy as np

from tuwen.evaluation.answers import Answers
from tuwen.retrieval.vectors import Rows


def count_occurrences(answers: Rows, gallery: int) -> Rows:
    """Count how often each of `gallery` items stands among the first answers [Q, k] of all queries, [G]."""
    return np.bincount(answers.ravel(), minlength=gallery)


def compute_skewness(times: Rows) -> float:
    """Return the skewness of the k-occurrence [G]: large where few hubs are found by many; 0 where all alike.

    E[(x - mean)³] / deviation³, as Radovanović et al., Hubs in Space, JMLR 2010, measure hubness.
    """
    deviation = times.std()
    return float(((times - times.mean()) ** 3).mean() / deviation**3) if deviation else 0.0


def find_hubs(times: Rows, count: int) -> Rows:
    """Return the `count` items that are found most often, the most frequent first; of equal ones the lower row."""
    return np.argsort(-times, kind="stable")[:count]


def compute_hub_skewness(answers: Answers) -> float:
    """Return the skewness of how often an item is among the first answers."""
    return compute_skewness(count_occurrences(answers.first, answers.gallery))


def compute_corrected_hub_skewness(answers: Answers) -> float | None:
    """Return the hub skewness of QB-Norm's answers, None without a bank."""
    if answers.first_corrected is None:
        return None
    return compute_skewness(count_occurrences(answers.first_corrected, answers.gallery))
