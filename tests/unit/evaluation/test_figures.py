"""The table of metrics is sound; what its rows measure is in tests/stages/test_evaluate_figures.py."""

import json
from collections import Counter

from tests.support.checkout import ROOT
from tuwen.evaluation.figures import ENDS, FIGURES
from tuwen.evaluation.metric import MeanOverKs, OfAnswers, OfQueries, OfSet

KS = [1, 5, 10]


def test_every_value_has_a_name_of_its_own():
    names = Counter(name for metric in FIGURES.values() for name, _, _ in metric.list_values(KS))
    assert [name for name, count in names.items() if count > 1] == []
    assert {"t2i_hit_at_5", "i2t_qbnorm_gain_at_10", "t2i_median_rank", "mean_recall", "auc"} <= set(names)


def test_a_mean_over_ks_is_of_a_metric_that_is_drawn_with_it():
    for metric in FIGURES.values():
        if isinstance(metric.source, MeanOverKs):
            of = FIGURES[metric.source.key]
            assert isinstance(of.source, OfQueries)
            assert of.has_interval
            assert metric.has_interval


def test_a_number_of_a_direction_or_a_set_has_no_k_and_is_not_in_the_gate():
    for metric in FIGURES.values():
        if isinstance(metric.source, OfAnswers | OfSet):
            assert "{k}" not in metric.name
            assert ("{direction}" in metric.name) == isinstance(metric.source, OfAnswers)
            assert not metric.in_gate


def test_the_recorded_metrics_are_those_of_the_table():
    counts = {"images", "texts"}
    values = json.loads((ROOT / "results/finetuned/metrics.json").read_text(encoding="utf-8"))["test"]
    due = {
        name + end
        for metric in FIGURES.values()
        if not isinstance(metric.source, OfSet)  # the sample knows of no pair that does not fit
        if not metric.needs_reordering  # the fine-tuned model has an order of its own
        for name, _, _ in metric.list_values(KS)
        for end in (ENDS if metric.has_interval else ENDS[:1])
    }
    assert set(values) == counts | due
