"""All results in two reports: report.md for a pull request, report.html with curves, queries and pictures.

report.html is one file that opens offline: pictures and figures stand inside it, there is no script, and its
own policy forbids every request.
"""

import json
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tuwen import pairs
from tuwen.curves import curves
from tuwen.errors import UserError
from tuwen.evaluate import read_set
from tuwen.examples import collect
from tuwen.params import Evaluate, Report
from tuwen.recall import hits, paired_intervals

MODELS = {"baseline": "baseline", "finetuned": "fine-tuned"}
DIRECTIONS = {"t2i": "text → image", "i2t": "image → text"}
EPOCHS_SHOWN = 6  # lines of the condensed training table

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


def write(data: Path, embeddings: Path, models: Path, results: Path, evaluate: Evaluate, report: Report) -> None:
    """Write `results/report.md` and `results/report.html` from all results on the test split.

    Reads data/clean/{quality.json,test}, embeddings/<model>/test, models/<model>/training.json and
    results/<model>/{metrics.json,ranks.parquet}. Raises UserError when one is missing or does not fit the others.
    """
    metrics, ranks = _metrics(results, evaluate.ks), _ranks(results)
    folder = data / "clean/test"
    test = pairs.read(folder)
    vectors = {model: read_set(embeddings / model / "test", folder, test) for model in MODELS}
    facts = {
        "models": MODELS,
        "directions": DIRECTIONS,
        "lines": _headline(metrics, ranks, evaluate),
        "metrics": metrics,
        "evaluate": evaluate,
        "training": {model: _json(models / model / "training.json") for model in MODELS},
        "quality": _quality(_json(data / "clean/quality.json")),
    }
    (results / "report.md").write_text(_markdown(facts), encoding="utf-8")
    examples = collect(data, test, vectors, ranks, report.examples, evaluate.seed)
    (results / "report.html").write_text(_page(facts, examples._asdict()), encoding="utf-8")


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


def _quality(body: dict[str, Any]) -> dict[str, list[tuple[Any, ...]]]:
    """quality.json as rows: what came in, what was found, what became of it."""
    came = [
        (
            name,
            table,
            counts["in"],
            counts["quarantined"],
            "; ".join(f"{n} {why}" for why, n in counts["faults"].items()),
        )
        for name, tables in body["raw"].items()
        for table, counts in tables.items()
        if table in ("images", "texts", "pairs") and counts["in"]
    ]
    sizes = [
        (name, *(size[table] for table in ("images", "texts", "pairs"))) for name, size in body["clean"].items()
    ]
    verdicts = [
        (name, table, check, verdict["severity"], verdict["unexpected"], verdict["success"])
        for name, tables in body["checks"].items()
        for table, found in tables.items()
        for check, verdict in found.items()
    ]
    failed = [verdict[:-1] for verdict in verdicts if not verdict[-1]]
    groups = [(name.replace("_", " "), value) for name, value in body["groups"].items()]
    return {"came": came, "sizes": sizes, "groups": groups, "verdicts": verdicts, "failed": failed}


def _some(epochs: list[Any]) -> list[Any]:
    """At most EPOCHS_SHOWN records, evenly spread, with the first and the last."""
    last, gaps = len(epochs) - 1, EPOCHS_SHOWN - 1
    return [epochs[n] for n in sorted({round(last * i / gaps) for i in range(EPOCHS_SHOWN)})] if epochs else []


def _markdown(facts: dict[str, Any]) -> str:
    """The report without pictures and captions."""
    metrics, quality, ks = facts["metrics"], facts["quality"], facts["evaluate"].ks
    sizes = metrics["finetuned"]
    headline = [
        (
            DIRECTIONS[line.direction],
            f"R@{line.k}",
            *(f"{p.value:.1f} [{p.low:.1f}, {p.high:.1f}]" for p in line.models.values()),
            f"**{line.gain.value:+.1f}** [{line.gain.low:+.1f}, {line.gain.high:+.1f}]",
        )
        for line in facts["lines"]
    ]
    recall = [
        (title, f"recall@{k}", *(f"{100 * metrics[model][f'{direction}_recall_at_{k}']:.1f}" for model in MODELS))
        for direction, title in DIRECTIONS.items()
        for k in ks
    ]
    return "\n".join(
        [
            "# Retrieval report",
            "",
            f"Test split: {sizes['images']} pictures, {sizes['texts']} texts; "
            f"{sizes['t2i_queries']} texts and {sizes['i2t_queries']} pictures are asked.",
            "Plain cosine over the whole gallery, no score correction.",
            "",
            "## R@k (hit@k): any true item among the first k, in percent",
            "",
            *_table(("direction", "", *MODELS.values(), "difference, points"), headline),
            "",
            f"In brackets: 95 % bootstrap intervals by group ({facts['evaluate'].bootstrap_samples} samples); "
            "those of the difference are paired: both models answer the same queries.",
            "",
            "## recall@k: found true items / all true items, in percent",
            "",
            *_table(("direction", "", *MODELS.values()), recall),
            "",
            "## Training",
            *(line for model in MODELS for line in _training(model, facts["training"][model])),
            "",
            "## Data quality",
            "",
            f"{len(quality['verdicts'])} checks, {len(quality['failed'])} not met.",
            "",
            *_table(("set", "table", "check not met", "severity", "rows"), quality["failed"]),
            "",
            *_table(("source set", "table", "rows", "quarantined", "faults"), quality["came"]),
            "",
            *_table(("clean set", "pictures", "texts", "pairs"), quality["sizes"]),
            "",
            *_table(("split groups", ""), quality["groups"]),
            "",
        ]
    )


def _training(model: str, training: dict[str, Any]) -> list[str]:
    epochs = training["epochs"]
    title = f"\n**{MODELS[model]}**: {training['pairs']} pairs, {training['steps']} steps, {len(epochs)} epochs\n"
    keys = ("loss", "temperature", "valid_t2i_hit_at_5", "valid_i2t_hit_at_5")
    rows = [(record["epoch"], *(f"{record[key]:.4g}" for key in keys)) for record in _some(epochs)]
    return [title, *_table(("epoch", *keys), rows)] if rows else [title]


def _table(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> list[str]:
    names = list(header)
    lines = [names, ["---"] * len(names), *rows]
    return [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def _page(facts: dict[str, Any], examples: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    source = resources.files("tuwen").joinpath("report.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    figures = curves({model: training["epochs"] for model, training in facts["training"].items()})
    return page.from_string(source).render(**facts, **examples, curves=figures) + "\n"
