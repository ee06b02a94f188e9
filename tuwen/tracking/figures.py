"""The metrics of an evaluation by MLflow's names, and those that stand in the run of the model as well."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.json_file import read_json
from tuwen.tracking.records import PARENT_TAG, log_to_run
from tuwen.tracking.revision import COMMIT_TAG

# hit@k is what README calls R@k; MLflow takes no @ in a name
RECALL = re.compile(rf"((?:{'|'.join(DIRECTIONS)})(?:_unseen)?)_hit_at_(\d+)")

Metrics = Mapping[str, Mapping[str, float]]


def flatten_metrics(metrics: Metrics) -> dict[str, float]:
    """Return metrics.json by flat names: test_t2i_hit_at_5 …, and hit@k as R@k too: test_t2i_R_at_5 …"""
    flat = {f"{name}_{key}": value for name, figures in metrics.items() for key, value in figures.items()}
    return flat | select_recalls(metrics)


def get_cost_name(direction: str) -> str:
    """Return the metric of what re-ranking costs, milliseconds per query of test; its steps are the depths."""
    return f"test_{direction}_rerank_ms_per_query"


def select_recalls(metrics: Metrics) -> dict[str, float]:
    """Return R@k by set and direction, test_t2i_R_at_5 …, and of the queries whose caption is not in train."""
    return {
        f"{name}_{match[1]}_R_at_{match[2]}": value
        for name, figures in metrics.items()
        for key, value in figures.items()
        if (match := RECALL.fullmatch(key))
    }


def log_in_training(client: Any, training: str, evaluation: str, result: Path) -> None:
    """Log R@k of the evaluation in `result` to the run of the model, and make its own run a child of that.

    They are logged as of the evaluation's start, so that the newest evaluation is the one that is shown, older
    ones stay in the metric's history, and a second call changes nothing. Tags name that run and its code.
    """
    measured, recalls = client.get_run(evaluation), select_recalls(read_json(result / "metrics.json"))
    began_ms = measured.info.start_time
    logged_ms = {name: {at.timestamp for at in client.get_metric_history(training, name)} for name in recalls}
    # PostgreSQL would note each point that is there already as an error
    missing = {name: value for name, value in recalls.items() if began_ms not in logged_ms[name]}
    if missing:
        log_to_run(client, training, metrics=missing, time_ms=began_ms)
    if PARENT_TAG not in measured.data.tags:
        client.set_tag(evaluation, PARENT_TAG, training)
    if recalls and began_ms == max({began_ms}.union(*logged_ms.values())):
        code = measured.data.tags.get(COMMIT_TAG, "")
        log_to_run(client, training, tags={"tuwen.evaluation_run": evaluation, "tuwen.evaluation_commit": code})
