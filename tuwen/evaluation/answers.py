"""Both directions of a set answered and judged, with and without QB-Norm.

Shapes: N queries with a true item, Q queries, R first answers.
"""

from collections.abc import Mapping
from typing import NamedTuple

from tuwen.core.params import Evaluate
from tuwen.data.formats.directions import DIRECTIONS, Direction
from tuwen.evaluation.embedded_set import EmbeddedSet, Groups, score_pairs
from tuwen.retrieval import qb_norm
from tuwen.retrieval.calibration import FirstAnswers
from tuwen.retrieval.metrics import Judged, judge_answers, judge_queries
from tuwen.retrieval.qb_norm import Correction
from tuwen.retrieval.vectors import Flags, Rows

HUB_K = 10  # an item is a hub where it stands among the first ten of many queries


class Answers(NamedTuple):
    """How one direction of a set is answered."""

    gallery: int  # items
    groups: Groups  # [N] what the bootstrap draws
    judged: Judged
    first: Rows  # [Q, R] gallery rows, best first
    judged_corrected: Judged | None  # by QB-Norm, where there is a bank
    first_corrected: Rows | None  # [Q, R]
    seen: Flags | None = None  # [N] whether a true caption stands in train; None: none does
    judged_before: Judged | None = None  # by the model that is reordered, where one is


def count_answers(embedded: EmbeddedSet, params: Evaluate) -> int:
    """Return how many first answers of each query are looked at, R."""
    return min(max(HUB_K, *params.ks), len(embedded.images), len(embedded.texts))


def answer_set(
    embedded: EmbeddedSet, params: Evaluate, corrections: Mapping[str, Correction] | None = None
) -> dict[str, Answers]:
    """Answer and judge both directions; corrections: QB-Norm's by direction, where there is a bank."""
    count = count_answers(embedded, params)
    first = qb_norm.find_first_answers(embedded.images, embedded.texts, count)
    corrected = (
        qb_norm.answer_both_corrected(embedded.images, embedded.texts, first, dict(corrections))
        if corrections
        else {}
    )
    answers = {}
    for name, direction in DIRECTIONS.items():
        task, first_corrected = embedded.make_task(direction), corrected.get(name)
        judged = judge_queries(task, params.ks)
        answers[name] = Answers(
            gallery=len(task.gallery),
            groups=embedded.list_groups(direction)[judged.query],
            judged=judged,
            first=first[name],
            judged_corrected=None if first_corrected is None else judge_answers(task, first_corrected, params.ks),
            first_corrected=first_corrected,
            seen=embedded.list_seen(direction, judged.query),
        )
    return answers


def list_first_answers(embedded: EmbeddedSet, direction: Direction, own: Answers) -> FirstAnswers:
    """Return the cosine of each query's first answer, uncorrected, and whether it is right."""
    task, query = embedded.make_task(direction), own.judged.query
    score = score_pairs(task.queries, task.gallery, query, own.first[query, 0])
    return FirstAnswers(score, own.judged.best_rank == 1, own.gallery)


def choose_betas(valid: EmbeddedSet, bank: EmbeddedSet) -> dict[str, float]:
    """Return QB-Norm's inverse temperature by direction, chosen on valid."""
    return {
        name: qb_norm.choose_beta(bank.make_task(direction).queries, valid.make_task(direction))
        for name, direction in DIRECTIONS.items()
    }


def compute_corrections(
    embedded: EmbeddedSet, bank: EmbeddedSet, betas: Mapping[str, float]
) -> dict[str, Correction]:
    """Return QB-Norm's correction of each gallery: images by the bank's texts, texts by the bank's images."""
    return {
        name: qb_norm.compute_correction(
            bank.make_task(direction).queries, embedded.make_task(direction).gallery, betas[name]
        )
        for name, direction in DIRECTIONS.items()
    }
