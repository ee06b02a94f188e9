"""All results in two reports: report.md for a pull request, report.html with curves, pairs, queries and pictures.

report.html is one file that opens offline: pictures and figures stand inside it, there is no script, and its
own policy forbids every request.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tuwen import doubtful, examples, pairs, quality
from tuwen.curves import curves
from tuwen.errors import UserError
from tuwen.evaluate import read_set
from tuwen.markdown import DIRECTIONS, MODELS, markdown
from tuwen.page import render
from tuwen.params import Evaluate, Params
from tuwen.recall import hits, paired_intervals

ANSWERING = {
    False: "The tasks (result1.csv, result2.csv) are answered by the fine-tuned model.",
    True: (
        "The tasks (result1.csv, result2.csv) are answered by a model refitted on all of augment.splits; its "
        "recall is not measured, as it has seen what it would be measured on. All figures here are the fine-tuned "
        "model's."
    ),
}

Metrics = dict[str, dict[str, float]]  # model -> flat name -> figure on the test split


class Percent(NamedTuple):
    """A figure and its 95 % interval, in percent or percentage points."""

    value: float
    low: float
    high: float


class Line(NamedTuple):
    """One line of the headline: hit@k of both models and what lies between."""

    direction: str
    k: int
    models: dict[str, Percent]
    gain: Percent


def write(data: Path, embeddings: Path, models: Path, results: Path, params: Params) -> None:
    """Write `results/report.md` and `results/report.html` from all results on the test split.

    Reads data/clean/{quality.json,test,bank}, embeddings/<model>/test, models/<model>/training.json,
    results/<model>/{metrics.json,ranks.parquet} and the baseline's pair_cosines.parquet. Raises UserError when one
    is missing or does not fit the others.
    """
    evaluate, doubt, folder = params.evaluate, params.pairs, data / "clean/test"
    every = {model: _json(results / model / "metrics.json") for model in MODELS}
    metrics, ranks = _metrics(results, evaluate.ks), _ranks(results)
    test = pairs.read(folder)
    vectors = {model: read_set(embeddings / model / "test", folder, test) for model in MODELS}
    training = {model: _json(models / model / "training.json") for model in MODELS}
    facts = {
        "models": MODELS,
        "directions": DIRECTIONS,
        "lines": _headline(metrics, ranks, evaluate),
        "metrics": metrics,
        "evaluate": evaluate,
        "answering": ANSWERING[params.finetune.refit_all],
        "training": training,
        "doubt": every["baseline"]["bank"] | {"min_cosine": doubt.min_cosine},
        "quality": _quality(_json(data / "clean/quality.json")),
    }
    shown = examples.collect(data, test, vectors, ranks, params.report.examples, evaluate.seed)
    doubted = doubtful.collect(data, results / "baseline/pair_cosines.parquet", doubt)
    drawn = curves({model: records["epochs"] for model, records in training.items()})
    page = render("report.html.j2", {**facts, **shown._asdict(), "doubtful": doubted, "curves": drawn})
    (results / "report.md").write_text(markdown(facts), encoding="utf-8")
    (results / "report.html").write_text(page, encoding="utf-8")


def headline_table(results: Path) -> str:
    """R@k on test in both directions, baseline beside fine-tuned, as plain text for a terminal."""
    metrics = _metrics(results, None)
    ks = [int(found[1]) for name in metrics["baseline"] if (found := re.fullmatch(r"t2i_hit_at_(\d+)", name))]
    lines = [f"{'test split':<14}{'':<6}{'baseline':>10}{'fine-tuned':>12}{'gain, points':>14}"]
    for direction, title in DIRECTIONS.items():
        for k in ks:
            before, after = (100 * metrics[model][f"{direction}_hit_at_{k}"] for model in MODELS)
            lines.append(f"{title:<14}{f'R@{k}':<6}{before:>8.1f} %{after:>10.1f} %{after - before:>+14.1f}")
    return "\n".join(lines) + "\n"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run `dvc repro`") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); remove it and run `dvc repro`") from None


def _metrics(results: Path, ks: list[int] | None) -> Metrics:
    """The test figures of both models; with `ks`, refuse those that were measured at others."""
    metrics: Metrics = {model: _json(results / model / "metrics.json")["test"] for model in MODELS}
    for model, figures in metrics.items():
        for k in ks or []:
            if f"t2i_hit_at_{k}" not in figures:
                path = results / model / "metrics.json"
                raise UserError(f"{path}: no figures at k = {k} (params.yaml: evaluate.ks); run `dvc repro`")
    return metrics


def _ranks(results: Path) -> dict[str, pa.Table]:
    """Model -> its ranks table; both must hold the same queries."""
    tables = {model: pairs.read_table(results / model / "ranks.parquet") for model in MODELS}
    first, second = (table.select(["direction", "query_id", "group"]) for table in tables.values())
    if not first.equals(second):
        raise UserError(
            f"{results}: ranks.parquet of {' and '.join(MODELS)} hold different queries; "
            "measure both on the same test split: `dvc repro`"
        )
    return tables


def _headline(metrics: Metrics, ranks: dict[str, pa.Table], evaluate: Evaluate) -> list[Line]:
    lines = []
    for direction in DIRECTIONS:
        asked = [table.filter(pc.equal(table["direction"], direction)) for table in ranks.values()]
        first, second = (hits(table["best_rank"].to_numpy(), evaluate.ks) for table in asked)
        groups = asked[0]["group"].to_numpy()
        gains = paired_intervals(first, second, groups, evaluate.bootstrap_samples, evaluate.seed)
        for k, gain in zip(evaluate.ks, 100 * gains, strict=True):
            name = f"{direction}_hit_at_{k}"
            both = {
                model: Percent(*(100 * metrics[model][name + end] for end in ("", "_low", "_high")))
                for model in MODELS
            }
            difference = both["finetuned"].value - both["baseline"].value
            lines.append(Line(direction, k, both, Percent(difference, *gain.tolist())))
    return lines


def _quality(body: dict[str, Any]) -> dict[str, Any]:
    """What both reports show of quality.json."""
    verdicts, (out, elsewhere) = quality.verdicts(body), quality.found_in_splits(body)
    return {
        "checks": len(verdicts),
        "failed": [verdict[:-1] for verdict in verdicts if not verdict.success],
        "came": [
            (*count[:-1], "; ".join(f"{rows} {reason}" for reason, rows in count.faults.items()))
            for count in quality.counts(body)
        ],
        "sizes": quality.sizes(body),
        "groups": quality.figures(body["groups"]),
        "corpus": (
            f"Pictures of the corpus that stand in valid or test too: {out}, which were taken out"
            + (f"; {elsewhere} in the measured ones of shards that stay where they are." if elsewhere else ".")
        ),
    }
