"""A re-ranker over a dual encoder's answers -> metrics.json, details.json, ranks.parquet, as of every model.

Depth and weight of the cosine are chosen on valid, for each direction. Without a re-ranker (params.yaml: rerank is
null) every file is there and holds nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tuwen.core.params import Evaluate
from tuwen.data.formats import pairs
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.json_file import write_json
from tuwen.data.formats.text import is_simplifying
from tuwen.evaluation.answers import Answers, count_answers
from tuwen.evaluation.details import make_details
from tuwen.evaluation.evaluate import MEASURED_SETS, PAIR_COSINES
from tuwen.evaluation.figures import DIGITS, MetricValues, measure_figures
from tuwen.evaluation.ranks import make_empty_ranks, make_ranks_table
from tuwen.evaluation.reranked.scored_set import ScoredSet, score_set
from tuwen.evaluation.seen.captions import find_seen_texts
from tuwen.evaluation.zero_shot_file import make_empty_report, write_report
from tuwen.model.reranker import has_reranker, load_reranker
from tuwen.retrieval.calibration import FirstAnswers, measure_calibration
from tuwen.retrieval.metrics import compute_hits, judge_ranks
from tuwen.retrieval.rerank import rerank, score_first
from tuwen.retrieval.rerank_choice import OrderChoice, choose_order, judge_choice, list_depths


class MeasuredReranker(NamedTuple):
    """What was measured; nothing of a re-ranker that is switched off."""

    metrics: dict[str, MetricValues]  # of test and valid
    costs: Mapping[str, Mapping[int, float]]  # direction -> depth -> milliseconds per query of test: in no out


Choices = Mapping[str, OrderChoice]  # by direction


def evaluate_reranked(
    model: Path, embeddings: Path, clean: Path, results: Path, params: Evaluate
) -> MeasuredReranker:
    """Write what `evaluate_model` writes, of the re-ranker in the folder `model`.

    embeddings: folder of the dual encoder that it began from; clean: folder of the sets' tables.
    pair_cosines.parquet and zero_shot.json have no row: both are of a dual encoder alone. Raises UserError as
    `evaluate_model`.
    """
    results.mkdir(parents=True, exist_ok=True)
    pairs.write_table(results / "pair_cosines.parquet", PAIR_COSINES.empty_table())
    write_report(results / "zero_shot.json", make_empty_report())
    if not has_reranker(model):
        write_json(results / "metrics.json", {})
        write_json(results / "details.json", {})
        pairs.write_table(results / "ranks.parquet", make_empty_ranks(params.ks))
        return MeasuredReranker({}, {})
    sets = _score_sets(model, embeddings, clean, params)
    valid, answered = sets["valid"], dict[str, dict[str, Answers]]()
    choices = {
        name: choose_order(valid.ranks[name], valid.matches[name], valid.most, params.ks) for name in DIRECTIONS
    }
    metrics: dict[str, MetricValues] = {}
    for name, own in sets.items():
        answers = answered[name] = answer_reordered(own, choices, params)
        values, exact = measure_figures(own.embedded, answers, params)
        metrics[name] = {"images": len(own.embedded.images), "texts": len(own.embedded.texts)} | values
        if name == "test":
            details = make_details(own.embedded, answers, {}, params, exact) | {"score_histogram": None}
            pairs.write_table(results / "ranks.parquet", make_ranks_table(own.embedded, answers, params.ks))
    write_json(results / "metrics.json", metrics)
    details["reranking"] = {
        name: {
            **choice._asdict(),
            "sure_on_valid": metrics["valid"][f"{name}_rerank_gain_mean_low"] > 0,
            "curve": _draw_depths(sets["test"], name, choice, params.ks),
        }
        for name, choice in choices.items()
    }
    details["calibration"] = {
        name: _calibrate(
            *(list_first_reordered(sets[one], name, choice, answered[one][name]) for one in ("valid", "test"))
        )
        for name, choice in choices.items()
    }
    write_json(results / "details.json", details)
    return MeasuredReranker(metrics, sets["test"].costs)


def _score_sets(model: Path, embeddings: Path, clean: Path, params: Evaluate) -> dict[str, ScoredSet]:
    reranker = load_reranker(model)
    train, simplify = pairs.read_pair_set(clean / "bank"), is_simplifying(model)
    sets = {}
    for name in MEASURED_SETS:
        scored = score_set(reranker, model, embeddings / name, clean / name, params)
        seen = find_seen_texts(pairs.read_pair_set(clean / name), train, simplify)
        sets[name] = scored._replace(embedded=scored.embedded._replace(seen_texts=seen))
    return sets


def answer_reordered(own: ScoredSet, choices: Choices, params: Evaluate) -> dict[str, Answers]:
    """Answer and judge both directions in the new order, beside the answers of the model that it began from."""
    answers = {}
    for name, direction in DIRECTIONS.items():
        matches, ranks, choice = own.matches[name], own.ranks[name], choices[name]
        judged = judge_choice(ranks, matches, choice, params.ks)
        gallery = len(getattr(own.embedded, direction.gallery))
        answers[name] = Answers(
            gallery=gallery,
            groups=own.embedded.list_groups(direction)[judged.query],
            judged=judged,
            first=rerank(matches, *choice)[:, : count_answers(own.embedded, params)],
            judged_corrected=None,
            first_corrected=None,
            seen=own.embedded.list_seen(direction, judged.query),
            judged_before=judge_ranks(*own.ranks_before[name], params.ks),
        )
    return answers


def list_first_reordered(
    own: ScoredSet, direction: str, choice: OrderChoice, answers: Answers
) -> dict[str, FirstAnswers]:
    """Return order -> the first answers of a direction: by the cosine, and by the choice where it has another."""
    matches, query = own.matches[direction], answers.judged.query
    by_cosine = judge_ranks(*own.ranks[direction], [1]).best_rank == 1
    firsts = {"cosine": FirstAnswers(matches.cosine[query, 0].astype(np.float64), by_cosine, answers.gallery)}
    if choice.k > 1:
        score_Q = score_first(matches, *choice).max(axis=1)
        firsts["reranked"] = FirstAnswers(score_Q[query], answers.judged.best_rank == 1, answers.gallery)
    return firsts


def _calibrate(valid: Mapping[str, FirstAnswers], test: Mapping[str, FirstAnswers]) -> dict[str, Any]:
    return {order: measure_calibration(valid[order], test[order]) for order in valid}


def _draw_depths(own: ScoredSet, direction: str, choice: OrderChoice, ks: Sequence[int]) -> list[dict[str, float]]:
    """Return hit@k by depth at the weight of the choice; depth 1 is the order of the cosine."""
    points = []
    for depth in (1, *list_depths(own.most)):
        judged = judge_choice(own.ranks[direction], own.matches[direction], choice._replace(k=depth), ks)
        hits_K = compute_hits(judged, ks).mean(axis=0).round(DIGITS).tolist()
        points.append({"k": depth} | {f"hit_at_{k}": hit for k, hit in zip(ks, hits_K, strict=True)})
    return points
