"""All results in two reports: report.md for a pull request, report.html with charts, pairs, queries and images.

report.html is one file that opens offline: images and charts stand inside it, there is no script, and its own
policy forbids every request.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuwen.core.params import Params
from tuwen.data.formats import pairs
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.json_file import read_json
from tuwen.data.formats.tokens.token_stats import LOSS_COLUMNS, tabulate_losses
from tuwen.data.quality import summary
from tuwen.evaluation.details import Details
from tuwen.evaluation.evaluate import judge_pairs
from tuwen.evaluation.figures import FIGURES
from tuwen.evaluation.headline import Line, choose_headline, make_further_lines, make_lines, tabulate_line
from tuwen.evaluation.metric import format_number
from tuwen.evaluation.models import (
    MODELS,
    SHIPPED,
    get_base,
    list_embedding,
    list_gain_titles,
    list_rivals,
    list_titles,
)
from tuwen.evaluation.results import Results, read_results
from tuwen.evaluation.seen.captions import describe_seen
from tuwen.evaluation.verdicts import format_verdict, judge_line
from tuwen.report import (
    attention,
    curves,
    doubtful_pairs,
    examples,
    hubs,
    reliability,
    reranking,
    slices,
    small_vectors,
)
from tuwen.report.html.confusion import draw_confusion
from tuwen.report.html.page import render
from tuwen.report.markdown import format_markdown
from tuwen.retrieval.calibration import RELIABILITY
from tuwen.retrieval.vectors import read_set_vectors

ANSWERING = {
    False: "The tasks (result1.csv, result2.csv) are answered by the fine-tuned model.",
    True: (
        "The tasks (result1.csv, result2.csv) are answered by a model refitted on all of augment.splits; its "
        "recall is not measured, as it has seen what it would be measured on. All figures here are the fine-tuned "
        "model's."
    ),
}


def write_reports(data: Path, embeddings: Path, models: Path, results: Path, index: Path, params: Params) -> None:
    """Write `results/report.md` and `results/report.html` from all results on the test split.

    Reads data/clean/{quality.json,test,bank}, embeddings/<model>/test, models/<model>/training.json, a re-ranker
    whole, results/<model>/{metrics.json,details.json,zero_shot.json,ranks.parquet} and the base's
    pair_cosines.parquet, index/reliability.json.
    Raises UserError when one is missing or does not fit the others.
    """
    measured, folder, base = read_results(results, params.evaluate.ks), data / "clean/test", get_base().name
    test = pairs.read_pair_set(folder)
    vectors = {
        name: read_set_vectors(embeddings / name / "test", folder, test) for name in list_embedding(measured)
    }
    training = {name: read_json(models / name / "training.json") for name in measured}
    ranks = {name: own.ranks for name, own in measured.items()}
    shown_k = 5 if 5 in params.evaluate.ks else params.evaluate.ks[0]
    lines = _collect_metrics(measured, params)
    facts = lines | {
        "shown_k": shown_k,
        **_judge_headline(lines, shown_k),
        "overlap": describe_seen(measured[SHIPPED].metrics),
        "reranking": reranking.collect_reranking(measured, params.evaluate),
        "depth_columns": reranking.list_depth_columns(params.evaluate.ks),
        "reliability": reliability.collect_reliability(measured, index / RELIABILITY),
        "small_vectors": small_vectors.collect_small_vectors(measured, params.evaluate.ks),
        "slices": slices.collect_slices(test, ranks, shown_k, params.evaluate),
        "slices_note": slices.NOTE,
        "format_number": format_number,
        "answering": ANSWERING[params.finetune.refit_all]
        + reranking.describe_answering(measured, params.predict.rerank),
        "training": training,
        "losses": tabulate_losses(training[base].get("captions", {})),
        "candidates": {name: _list_candidates(records) for name, records in training.items()},
        "doubt": {"min_cosine": params.pairs.min_cosine} | measured[base].bank,  # the bank's: what auto came to
        "doubt_finding": judge_pairs(measured[base].bank, params.pairs, results / base),
        "quality": _collect_quality(read_json(data / "clean/quality.json")),
    }
    shown = examples.collect_examples(data, test, vectors, ranks, params.report.examples, params.evaluate.seed)
    page = facts | shown._asdict() | _collect_page(data, test, results, measured, facts, params)
    name = reranking.find_reordering(measured)
    page["attention"] = attention.collect_attention(data, test, shown, models / name) if name else None
    (results / "report.md").write_text(format_markdown(facts), encoding="utf-8")
    (results / "report.html").write_text(render("report.html.j2", page), encoding="utf-8")


def _collect_page(
    data: Path,
    test: pairs.PairSet,
    results: Path,
    measured: Results,
    facts: Mapping[str, Any],
    params: Params,
) -> dict[str, Any]:
    """Return what report.html shows besides the facts of report.md: charts, pictures, names."""
    base, training = get_base().name, facts["training"]
    doubt = params.pairs.model_copy(update={"min_cosine": facts["doubt"]["min_cosine"]})
    shipped, cosines = measured[SHIPPED], results / base / "pair_cosines.parquet"
    return {
        "models": {name: MODELS[name] for name in measured},
        "rivals": list_rivals(measured),
        "further_header": ("direction", "", *list_titles(measured), *list_gain_titles(measured)),
        "further_rows": [tabulate_line(line, measured) for line in facts["further"]],
        "base": base,
        "shipped": SHIPPED,
        "directions": DIRECTIONS,
        "hubs": hubs.collect_hubs(data, test, shipped.details, shipped.metrics, results / SHIPPED),
        "doubtful": doubtful_pairs.collect_doubtful_pairs(data, cosines, doubt),
        "curves": _draw_curves(training, facts["details"], params.evaluate.ks),
        "with_ema": any(
            "ema_valid_t2i_hit_at_5" in one for records in training.values() for one in records["epochs"]
        ),
        "loss_columns": LOSS_COLUMNS,
        "reliability_columns": reliability.RELIABILITY_COLUMNS,
        "reliability_note": reliability.RELIABILITY_NOTE,
        "confusion": draw_confusion(shipped.zero_shot.classes, shipped.zero_shot.confusion),
    }


def _judge_headline(lines: Mapping[str, Sequence[Line]], shown_k: int) -> dict[str, Any]:
    """Return the lines that lead the reports, each with what may be said of it, and that as text."""
    headline = [
        *choose_headline(lines["hits"], lines["unseen"]),
        choose_headline(lines["mean"], lines["unseen_mean"])[0],
    ]
    leads = [line for line in headline if line.k in (shown_k, None)]
    return {
        "leads": [(line, judge_line(line)) for line in leads],
        "verdicts": [format_verdict(line) for line in leads],
    }


def _collect_metrics(measured: Results, params: Params) -> dict[str, Any]:
    """Return what both reports show of the metrics: lines of FIGURES by their place, and the rest by model."""
    places = {
        "hits": ("hit",),
        "corrected": ("qbnorm_hit",),
        "changes": ("qbnorm_gain",),
        "unseen": ("unseen_hit",),
        "mean": ("mean",),
        "unseen_mean": ("unseen_mean",),
        "summary": ("mean", "median_rank"),
        "recalls": ("recall",),
        "hubness": ("hub_skewness",),
        "corrected_hubness": ("qbnorm_hub_skewness",),
    }
    lines = {
        place: [line for key in keys for line in make_lines(measured, FIGURES[key], params.evaluate)]
        for place, keys in places.items()
    }
    return lines | {
        "further": make_further_lines(measured, params.evaluate),
        "evaluate": params.evaluate,
        "metrics": {name: own.metrics for name, own in measured.items()},
        "details": {name: own.details for name, own in measured.items()},
        "zero_shot": {name: measured[name].zero_shot for name in list_embedding(measured)},
    }


def _list_candidates(training: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """List the states that the selection on valid compared, and which it took; none where there was no choice."""
    return [
        (
            f"epoch {one['epoch']}{', averaged' if one['ema'] else ''}",
            f"{one['wise_ft']:g}",
            f"{100 * one['criterion']:.1f}",
            "taken" if all(one[key] == value for key, value in training["selected"].items()) else "",
        )
        for one in training.get("candidates", [])
    ]


def _draw_curves(training: Mapping[str, Any], details: Mapping[str, Details], ks: list[int]) -> dict[str, str]:
    """Return chart name -> SVG element, empty where there is nothing to draw."""
    drawn = curves.draw_training({model: records["epochs"] for model, records in training.items()})
    for name in DIRECTIONS:
        points = {model: own.gallery_curve[name] for model, own in details.items()}
        drawn[f"gallery_{name}"] = curves.draw_gallery_curve(f"gallery_{name}", points, ks)
    scores = curves.draw_scores(
        {model: own.score_histogram for model, own in details.items() if own.score_histogram}
    )
    return drawn | {f"scores_{model}": scores.get(model, "") for model in details}


def _collect_quality(body: dict[str, Any]) -> dict[str, Any]:
    """Return what both reports show of quality.json."""
    findings, (out, elsewhere) = summary.list_findings(body), summary.count_in_valid_or_test(body)
    return {
        "checks": len(findings),
        "failed": [finding[:-1] for finding in findings if not finding.success],
        "rows": [
            (*count[:-1], "; ".join(f"{rows} {reason}" for reason, rows in count.faults.items()))
            for count in summary.list_row_counts(body)
        ],
        "sizes": summary.list_sizes(body),
        "groups": summary.flatten_values(body["groups"]),
        "corpus": (
            f"Pictures of the corpus that stand in valid or test too: {out}, which were taken out"
            + (f"; {elsewhere} in the measured ones of shards that stay where they are." if elsewhere else ".")
        ),
    }
