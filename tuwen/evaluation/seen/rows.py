"""Rows of FIGURES that a set has only where the caption of some query stands in train."""

from tuwen.evaluation.answers import Answers
from tuwen.evaluation.metric import PERCENT, WHOLE_NUMBER, MeanOverKs, Metric, OfAnswers, OfGallery, OfQueries
from tuwen.retrieval import metrics


def count_seen(answers: Answers) -> float | None:
    """Count the queries whose caption stands in train; None where none does."""
    return None if answers.seen is None else float(answers.seen.sum())


SEEN_FIGURES = {
    "unseen_hit": Metric(
        name="{direction}_unseen_hit_at_{k}",
        title="R@{k}, caption not in train",
        unit=PERCENT,
        source=OfQueries(metrics.compute_hits, part="unseen"),
        has_interval=True,
        needs_overlap=True,
        chance="unseen_chance",
    ),
    "seen_hit": Metric(
        name="{direction}_seen_hit_at_{k}",
        title="R@{k}, caption in train",
        unit=PERCENT,
        source=OfQueries(metrics.compute_hits, part="seen"),
        has_interval=True,
        needs_overlap=True,
    ),
    "unseen_chance": Metric(
        name="{direction}_unseen_chance_at_{k}",
        title="R@{k} by chance, caption not in train",
        unit=PERCENT,
        source=OfGallery(metrics.compute_chances, part="unseen"),
        needs_overlap=True,
        in_table=False,
    ),
    "unseen_mean": Metric(
        name="unseen_mean_recall",
        title="R@M, the mean of all R@k, captions not in train",
        unit=PERCENT,
        source=MeanOverKs("unseen_hit"),
        has_interval=True,
        needs_overlap=True,
    ),
    "seen_queries": Metric(
        name="{direction}_seen_queries",
        title="queries whose caption is in train",
        unit=WHOLE_NUMBER,
        source=OfAnswers(count_seen),
        needs_overlap=True,
    ),
}
