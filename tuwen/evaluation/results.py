"""`results/` as one typed value: what `evaluate` wrote of every model, checked, also against each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.data.formats.checked_json import read_checked
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.json_file import read_json
from tuwen.evaluation.details import Details, read_details
from tuwen.evaluation.figures import ENDS, FIGURES, MetricValues
from tuwen.evaluation.metric import OfSet
from tuwen.evaluation.models import MODELS, RankedModel, list_embedding
from tuwen.evaluation.ranks import RankedQueries, read_ranks
from tuwen.evaluation.zero_shot_file import ZeroShot


class ModelResults(NamedTuple):
    """What was measured of one model."""

    metrics: MetricValues  # on test
    bank: MetricValues  # how well the pairs of the bank fit; of a model without vectors nothing
    details: Details
    zero_shot: ZeroShot
    ranks: dict[str, RankedQueries]  # by direction


Results = Mapping[str, ModelResults]  # by model that was measured, in the order of MODELS


def list_measured(results: Path) -> list[str]:
    """Return the models of MODELS that have results: one that reorders has none where it is switched off."""
    return [name for name, model in MODELS.items() if model.embeds or _is_filled(results / name / "metrics.json")]


def _is_filled(path: Path) -> bool:
    return path.is_file() and bool(read_json(path))


def read_results(results: Path, ks: Sequence[int]) -> Results:
    """Read metrics.json, details.json, zero_shot.json and ranks.parquet of every model that was measured.

    ks: params.yaml's evaluate.ks. Raises UserError when a file is missing, of older code or measured at other ks,
    and when two models were measured on different queries or classes.
    """
    names = list_measured(results)
    metrics = {name: read_metrics(results / name / "metrics.json", MODELS[name], ks) for name in names}
    ranks = {name: read_ranks(results / name / "ranks.parquet", ks) for name in names}
    _require_same_queries(results, ranks)
    read = {
        name: ModelResults(
            metrics=metrics[name]["test"],
            bank=metrics[name].get("bank", {}),
            details=read_details(results / name / "details.json", ks),
            zero_shot=read_checked(results / name / "zero_shot.json", ZeroShot),
            ranks=ranks[name],
        )
        for name in names
    }
    _require_same_classes(results, read)
    return read


def read_metrics(path: Path, model: RankedModel, ks: Sequence[int]) -> dict[str, MetricValues]:
    """Read one metrics.json, by set. Raises UserError where test lacks what FIGURES promises of such a model."""
    metrics: dict[str, MetricValues] = read_json(path)
    test = _get_test(path, metrics)
    for k in ks:
        if f"t2i_hit_at_{k}" not in test:
            raise UserError(f"{path}: no figures at k = {k} (params.yaml: evaluate.ks); run `dvc repro`")
    names = ["images", "texts"]
    for metric in FIGURES.values():
        if isinstance(metric.source, OfSet) or metric.needs_overlap:
            continue
        if (model.embeds or not metric.needs_bank) and not (model.embeds and metric.needs_reordering):
            ends = ENDS if metric.has_interval else ENDS[:1]
            names += [name + end for name, *_ in metric.list_values(ks) for end in ends]
    if missing := [name for name in names if name not in test]:
        raise UserError(f"{path}: test lacks {missing[0]}; remove the file and run `dvc repro`")
    return metrics


def read_test_metrics(path: Path) -> MetricValues:
    """Read the test set's values of one metrics.json, whatever they are."""
    return _get_test(path, read_json(path))


def _get_test(path: Path, metrics: Mapping[str, MetricValues]) -> MetricValues:
    test = metrics.get("test")
    if not isinstance(test, dict):
        raise UserError(f"{path}: no figures of the test split; remove the file and run `dvc repro`")
    return test


def _require_same_queries(results: Path, ranks: Mapping[str, Mapping[str, RankedQueries]]) -> None:
    base, *others = ranks.values()
    for other in others:
        for direction in DIRECTIONS:
            first, second = base[direction], other[direction]
            if not first.query_ids.equals(second.query_ids) or not np.array_equal(first.groups, second.groups):
                raise UserError(
                    f"{results}: ranks.parquet of {' and '.join(ranks)} hold different queries; "
                    "measure both on the same test split: `dvc repro`"
                )


def _require_same_classes(results: Path, models: Results) -> None:
    names = list_embedding(models)
    classes = [models[name].zero_shot.classes for name in names]
    if any(other != classes[0] for other in classes):
        raise UserError(
            f"{results}: zero_shot.json of {' and '.join(names)} name different classes; "
            "measure both on the same test split: `dvc repro`"
        )
