"""Rows of FIGURES that a set has only where the caption of some query stands in train: recall by its two parts."""

from collections.abc import Mapping
from typing import Any

from tuwen.evaluation.answers import Answers
from tuwen.evaluation.metric import WHOLE_NUMBER, MeanOverKs, Metric, OfAnswers, OfGallery, OfQueries


def count_seen(answers: Answers) -> float | None:
    """Count the queries whose caption stands in train; None where none does."""
    return None if answers.seen is None else float(answers.seen.sum())


SEEN_QUERIES = Metric(
    name="{direction}_seen_queries",
    title="queries whose caption is in train",
    unit=WHOLE_NUMBER,
    source=OfAnswers(count_seen),
    needs_overlap=True,
)


def make_seen_figures(figures: Mapping[str, Metric]) -> dict[str, Metric]:
    """Return the rows `hit`, `chance` and `mean` of FIGURES once more for a part of the queries, and its size."""
    hit, chance, mean = figures["hit"], figures["chance"], figures["mean"]
    assert isinstance(hit.source, OfQueries)
    assert isinstance(chance.source, OfGallery)
    part: dict[str, Any] = {"needs_overlap": True, "in_table": True, "in_gate": False}
    return {
        "unseen_hit": hit._replace(
            name="{direction}_unseen_hit_at_{k}",
            title=f"{hit.title}, caption not in train",
            source=hit.source._replace(part="unseen"),
            chance="unseen_chance",
            **part,
        ),
        "seen_hit": hit._replace(
            name="{direction}_seen_hit_at_{k}",
            title=f"{hit.title}, caption in train",
            source=hit.source._replace(part="seen"),
            chance=None,
            **part,
        ),
        "unseen_chance": chance._replace(
            name="{direction}_unseen_chance_at_{k}",
            title=f"{chance.title}, caption not in train",
            source=chance.source._replace(part="unseen"),
            needs_overlap=True,
        ),
        "unseen_mean": mean._replace(
            name=f"unseen_{mean.name}",
            title=f"{mean.title}, captions not in train",
            source=MeanOverKs("unseen_hit"),
            **part,
        ),
        "seen_queries": SEEN_QUERIES,
    }
