"""All results in two reports: report.md for a pull request, report.html with curves, pairs, queries and pictures.

report.html is one file that opens offline: pictures and figures stand inside it, there is no script, and its
own policy forbids every request.
"""

import re
from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError
from tuwen.core.params import Params
from tuwen.data.formats import pairs
from tuwen.data.formats.json_file import read_json
from tuwen.data.quality import quality_file
from tuwen.evaluation import headline
from tuwen.retrieval.vectors import read_set_vectors
from tuwen.evaluation.findings import Details, ZeroShot, read_checked
from tuwen.evaluation.headline import DIRECTIONS, MODELS
from tuwen.report import curves, doubtful_pairs, examples, hubs, slices
from tuwen.report.html.confusion import draw_confusion
from tuwen.report.html.page import render
from tuwen.report.markdown import format_markdown

ANSWERING = {
    False: "The tasks (result1.csv, result2.csv) are answered by the fine-tuned model.",
    True: (
        "The tasks (result1.csv, result2.csv) are answered by a model refitted on all of augment.splits; its "
        "recall is not measured, as it has seen what it would be measured on. All figures here are the fine-tuned "
        "model's."
    ),
}


def write_reports(data: Path, embeddings: Path, models: Path, results: Path, params: Params) -> None:
    """Write `results/report.md` and `results/report.html` from all results on the test split.

    Reads data/clean/{quality.json,test,bank}, embeddings/<model>/test, models/<model>/training.json,
    results/<model>/{metrics.json,details.json,zero_shot.json,ranks.parquet} and the baseline's
    pair_cosines.parquet. Raises UserError when one is missing or does not fit the others.
    """
    evaluate, doubt, folder = params.evaluate, params.pairs, data / "clean/test"
    figures, ranks = headline.read_metrics(results, evaluate.ks), headline.read_ranks(results)
    details, zero_shot = _details(results, evaluate.ks), _zero_shot(results)
    test = pairs.read_pair_set(folder)
    vectors = {model: read_set_vectors(embeddings / model / "test", folder, test) for model in MODELS}
    training = {model: read_json(models / model / "training.json") for model in MODELS}
    bank = read_json(results / "baseline/metrics.json")["bank"]
    shown_k = 5 if 5 in evaluate.ks else evaluate.ks[0]
    facts = {
        "models": MODELS,
        "directions": DIRECTIONS,
        "lines": headline.make_lines(figures, ranks, evaluate),
        "shown_k": shown_k,
        "slices": slices.collect_slices(test, ranks, shown_k, evaluate),
        "slices_note": slices.NOTE,
        "means": {model: headline.percent(figures[model], "mean_recall") for model in MODELS},
        "metrics": figures,
        "evaluate": evaluate,
        "answering": ANSWERING[params.finetune.refit_all],
        "training": training,
        "candidates": {model: _candidates(records) for model, records in training.items()},
        "details": details,
        "zero_shot": zero_shot,
        "doubt": bank | {"min_cosine": doubt.min_cosine},
        "quality": _quality(read_json(data / "clean/quality.json")),
    }
    shown = examples.collect_examples(data, test, vectors, ranks, params.report.examples, evaluate.seed)
    page = {
        **facts,
        **shown._asdict(),
        "hubs": hubs.collect_hubs(data, test, details["finetuned"], figures["finetuned"], results / "finetuned"),
        "doubtful": doubtful_pairs.collect_doubtful_pairs(data, results / "baseline/pair_cosines.parquet", doubt),
        "curves": _curves(training, details, evaluate.ks),
        "with_ema": any(
            "ema_valid_t2i_hit_at_5" in one for records in training.values() for one in records["epochs"]
        ),
        "confusion": draw_confusion(zero_shot["finetuned"].classes, zero_shot["finetuned"].confusion),
    }
    (results / "report.md").write_text(format_markdown(facts), encoding="utf-8")
    (results / "report.html").write_text(render("report.html.j2", page), encoding="utf-8")


def format_headline(results: Path) -> str:
    """R@k on test in both directions, baseline beside fine-tuned, as plain text for a terminal."""
    figures = {model: headline.read_test_metrics(results / model / "metrics.json") for model in MODELS}
    ks = [int(found[1]) for name in figures["baseline"] if (found := re.fullmatch(r"t2i_hit_at_(\d+)", name))]
    lines = [f"{'test split':<14}{'':<6}{'baseline':>10}{'fine-tuned':>12}{'gain, points':>14}"]
    for direction, title in DIRECTIONS.items():
        for k in ks:
            before, after = (100 * figures[model][f"{direction}_hit_at_{k}"] for model in MODELS)
            lines.append(f"{title:<14}{f'R@{k}':<6}{before:>8.1f} %{after:>10.1f} %{after - before:>+14.1f}")
    return "\n".join(lines) + "\n"


def _details(results: Path, ks: list[int]) -> dict[str, Details]:
    found = {}
    for model in MODELS:
        path = results / model / "details.json"
        found[model] = read_checked(path, Details)
        for way, points in dict(found[model].gallery_curve).items():
            if any(name not in point for point in points for name in ("gallery", *(f"hit_at_{k}" for k in ks))):
                raise UserError(
                    f"{path}: gallery_curve.{way} lacks a figure at one of k = {ks} (params.yaml: evaluate.ks); "
                    "run `dvc repro`"
                )
    return found


def _zero_shot(results: Path) -> dict[str, ZeroShot]:
    found = {model: read_checked(results / model / "zero_shot.json", ZeroShot) for model in MODELS}
    if found["baseline"].classes != found["finetuned"].classes:
        raise UserError(
            f"{results}: zero_shot.json of {' and '.join(MODELS)} name different classes; "
            "measure both on the same test split: `dvc repro`"
        )
    return found


def _candidates(training: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The states that the selection on valid compared, and which it took; none where there was no choice."""
    return [
        (
            f"epoch {one['epoch']}{', averaged' if one['ema'] else ''}",
            f"{one['wise_ft']:g}",
            f"{100 * one['criterion']:.1f}",
            "taken" if all(one[key] == value for key, value in training["selected"].items()) else "",
        )
        for one in training.get("candidates", [])
    ]


def _curves(training: dict[str, Any], details: dict[str, Details], ks: list[int]) -> dict[str, str]:
    """Figure name -> SVG element, empty where there is nothing to draw."""
    drawn = curves.draw_training({model: records["epochs"] for model, records in training.items()})
    for way in DIRECTIONS:
        points = {model: getattr(found.gallery_curve, way) for model, found in details.items()}
        drawn[f"gallery_{way}"] = curves.draw_gallery_curve(f"gallery_{way}", points, ks)
    scores = curves.draw_scores({model: found.score_histogram for model, found in details.items()})
    return drawn | {f"scores_{model}": figure for model, figure in scores.items()}


def _quality(body: dict[str, Any]) -> dict[str, Any]:
    """What both reports show of quality.json."""
    verdicts, (out, elsewhere) = quality_file.verdicts(body), quality_file.found_in_splits(body)
    return {
        "checks": len(verdicts),
        "failed": [verdict[:-1] for verdict in verdicts if not verdict.success],
        "came": [
            (*count[:-1], "; ".join(f"{rows} {reason}" for reason, rows in count.faults.items()))
            for count in quality_file.counts(body)
        ],
        "sizes": quality_file.sizes(body),
        "groups": quality_file.figures(body["groups"]),
        "corpus": (
            f"Pictures of the corpus that stand in valid or test too: {out}, which were taken out"
            + (f"; {elsewhere} in the measured ones of shards that stay where they are." if elsewhere else ".")
        ),
    }
