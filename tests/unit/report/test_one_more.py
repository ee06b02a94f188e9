"""One more metric is one row of FIGURES, one more ranked model one row of MODELS: both appear everywhere."""

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.show import format_recall
from tests.support import report_inputs
from tests.support.reranker import write_small_reranker
from tests.support.retrieval import run
from tuwen.core.params import load_params
from tuwen.data.formats import pairs
from tuwen.evaluation.compare import compare_ranks, format_changes
from tuwen.evaluation.external.measure import evaluate_vectors
from tuwen.evaluation.figures import FIGURES
from tuwen.evaluation.headline import format_figures
from tuwen.evaluation.metric import DECIMAL, Metric, OfAnswers, OfQueries, format_number
from tuwen.evaluation.models import MODELS, RankedModel
from tuwen.evaluation.results import read_results
from tuwen.report.terminal import format_headline
from tuwen.tracking.artifacts import draw_charts
from tuwen.tracking.figures import flatten_metrics

RECIPROCAL_RANK = Metric(
    name="{direction}_reciprocal_rank",
    title="reciprocal rank",
    unit=DECIMAL,
    source=OfQueries(lambda judged, ks: 1 / judged.best_rank[:, None]),
    has_interval=True,
    in_gate=True,
)
WORST_RANK = Metric(
    name="{direction}_worst_rank",
    title="worst rank",
    unit=DECIMAL,
    source=OfAnswers(lambda answers: float(answers.judged.best_rank.max())),
)


def mean_reciprocal_rank(root: Path, model: str, direction: str) -> float:
    rows = pairs.read_table(root / "results" / model / "ranks.parquet").to_pylist()
    return float(np.mean([1 / row["best_rank"] for row in rows if row["direction"] == direction]))


def html_rows(page: str) -> list[list[str]]:
    rows = re.findall(r"<tr.*?>(.*?)</tr>", page, re.S)
    cells = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row, re.S) for row in rows]
    return [[re.sub(r"<[^>]+>", " ", cell).strip() for cell in row] for row in cells]


def test_a_metric_is_measured_logged_reported_and_compared(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FIGURES, "reciprocal_rank", RECIPROCAL_RANK)
    monkeypatch.setitem(FIGURES, "worst_rank", WORST_RANK)
    root = shutil.copytree(world, tmp_path / "world")
    before = json.loads((root / "results/finetuned/metrics.json").read_text())
    metrics = {model: run(root, model) for model in ("baseline", "finetuned")}
    assert json.loads((root / "results/finetuned/metrics.json").read_text()) == metrics["finetuned"]
    for name, values in before.items():
        assert {key: metrics["finetuned"][name][key] for key in values} == values  # the others stay as they were
    ends = ("", "_low", "_high")
    value, low, high = (metrics["baseline"]["test"][f"t2i_reciprocal_rank{end}"] for end in ends)
    assert value == pytest.approx(mean_reciprocal_rank(root, "baseline", "t2i"), abs=1e-6)
    assert 0 < low < value < high < 1
    logged = flatten_metrics(metrics["baseline"])
    assert (logged["test_t2i_reciprocal_rank"], logged["valid_t2i_reciprocal_rank"]) == (value, value)

    report_inputs.write(root)
    after = metrics["finetuned"]["test"]["t2i_reciprocal_rank"]
    cells = [f"{value:.2f} [{low:.2f}, {high:.2f}]", f"{after:.2f} [", f"{after - value:+.2f} ["]
    (line,) = re.findall(
        r"^\| text → image \| reciprocal rank \| (.*) \|$", (root / "results/report.md").read_text(), re.M
    )
    assert [shown.startswith(cell) for shown, cell in zip(line.split(" | "), cells, strict=True)] == [True] * 3
    rows = html_rows((root / "results/report.html").read_text())
    assert ["text → image", "reciprocal rank", *line.split(" | ")] in rows
    params = load_params(root / "params.yaml").evaluate
    page = format_recall(read_results(root / "results", params.ks), params)
    assert f"| text → image reciprocal rank | {line} |" in page
    worst = [int(metrics[model]["test"]["i2t_worst_rank"]) for model in ("baseline", "finetuned")]
    gain = format_number(worst[1] - worst[0], "+d") + ".00"  # no interval: it is no mean over queries
    assert f"| image → text worst rank | {worst[0]}.00 | {worst[1]}.00 | {gain} |" in page

    files = [root / "results" / model / "ranks.parquet" for model in ("baseline", "finetuned")]
    compared = format_changes(compare_ranks(*files, params))
    gain = line.split(" | ")[2]
    assert f"| text → image | 28 | reciprocal rank | {value:.2f} | {after:.2f} | {gain} |" in compared


def test_a_metric_is_measured_of_foreign_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FIGURES, "reciprocal_rank", RECIPROCAL_RANK)
    values = evaluate_vectors(np.eye(3), np.eye(3)[[1, 0, 2]], [(0, 0), (1, 0), (2, 2)], ks=[1])
    # text 0 lies on image 1, text 2 on image 2; image 0 finds its text behind texts 1 and 0
    assert values["t2i_reciprocal_rank"] == 1
    assert values["i2t_reciprocal_rank"] == pytest.approx((1 / 2 + 1 + 1) / 3, abs=1e-6)
    printed = format_figures({"figures": values, "queries": {}, "gallery_curve": {"t2i": [], "i2t": []}})
    assert re.search(r"^image → text  reciprocal rank +0\.83  \[", printed, re.M)


def test_a_model_that_reorders_is_one_more_column(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranked = RankedModel("reranked", "re-ranked", light="#123456", dark="#fedcba", reorders="finetuned")
    monkeypatch.setitem(MODELS, "reranked", reranked)
    root = shutil.copytree(world, tmp_path / "world")
    for top in ("models", "results"):
        shutil.copytree(root / top / "finetuned", root / top / "reranked")
    write_small_reranker(root / "models/reranked")
    path = root / "results/reranked/metrics.json"
    body = json.loads(path.read_text())
    body["test"] = {name: value for name, value in body["test"].items() if "qbnorm" not in name}
    body["test"]["t2i_hit_at_5"] = 0.8765
    for way in ("t2i", "i2t"):
        for end, value in (("", 0.031), ("_low", 0.002), ("_high", 0.06)):
            names = ("rerank_gain_mean", *(f"rerank_gain_at_{k}" for k in (1, 5, 10)))
            body["test"] |= {f"{way}_{name}{end}": value for name in names}
    body["test"] |= {"unfit_pairs": 40, "match_auc": 0.805, "match_auc_low": 0.79, "match_auc_high": 0.82}
    path.write_text(json.dumps(body))
    details = json.loads((path.parent / "details.json").read_text())
    curve = [{"k": k, "hit_at_1": 0.1, "hit_at_5": 0.5, "hit_at_10": 0.7 + k / 100} for k in (1, 2, 4)]
    chosen = {"k": 4, "weight": 0.5, "sure_on_valid": True, "curve": curve}
    details |= {
        "score_histogram": None,
        "reranking": {"t2i": chosen, "i2t": chosen | {"k": 2, "weight": 0, "sure_on_valid": False}},
    }
    (path.parent / "details.json").write_text(json.dumps(details))
    zero = {"classes": [], "pictures": 0, "per_class": [], "confusion": []}
    zero |= {prompts: report_inputs.make_shares(0.0, 0.0) for prompts in ("one_prompt", "ensemble")}
    (root / "results/reranked/zero_shot.json").write_text(json.dumps(zero))
    settings = (root / "params.yaml").read_text()
    assert settings.count("  rerank: false\n") == 1
    (root / "params.yaml").write_text(settings.replace("  rerank: false\n", "  rerank: auto\n"))
    report_inputs.write(root)
    page, text = ((root / "results" / name).read_text() for name in ("report.html", "report.md"))
    told = "The tasks' answers are re-ranked, where valid is sure of the gain: text → image."
    assert told in text
    assert told in html.unescape(page)
    gain_titles = ["fine-tuned: gain, points", "re-ranked: gain, points"]
    header = f"| direction |  | chance | baseline | fine-tuned | re-ranked | {' | '.join(gain_titles)} |"
    assert f"{header} fine-tuned, QB-Norm | its change, points |" in text
    (line,) = re.findall(r"^\| text → image \| R@5 \| [\d.]+ \| (.*) \|$", text, re.M)
    assert line.split(" | ")[2].startswith("87.6 [")
    before, after, late = (float(cell.split(" [")[0]) for cell in line.split(" | ")[:3])
    gains = [float(cell.strip("*").split("**")[0]) for cell in line.split(" | ")[3:5]]
    assert gains == pytest.approx([after - before, late - before], abs=0.11)
    assert re.search(r"^\| text → image \| median rank \| \S+ \| \S+ \| \S+ \|$", text, re.M)
    assert re.search(r"^\| text → image \| 6 to 15 characters \| 27( \| \S+ \[[^|]*\]){5} \|$", text, re.M)
    assert re.search(r"^\| text → image( \| −?[\d.]+){5} \|  \|$", text, re.M)  # hubs: it has no QB-Norm
    change = r"\*\*\+3\.1 \[\+0\.2, \+6\.0\]\*\*"
    assert re.search(rf"^\| text → image \| R@5 \| \S+ \[[^|]*\| 87\.6 \[[^|]*\| {change} \|$", text, re.M)
    assert (
        "text → image: the first 4 are read, and the score is the probability of a match + 0.5 × cosine." in text
    )
    assert "image → text: the first 2 are read, and the score is the probability of a match." in text
    assert "| text → image | 4 | 10.0 | 50.0 | 74.0 |" in text
    assert '<a href="#reranking">' in page
    assert "the first 4 are read" in page
    assert "--finetuned: #0b6bcb; --reranked: #123456; --true" in page
    assert "--finetuned: #5fb0ff; --reranked: #fedcba; --true" in page
    assert ".bar.reranked i { background: var(--reranked); }" in page
    (first, *_) = (row for row in html_rows(page) if "re-ranked" in row)
    titles = ["baseline", "fine-tuned", "re-ranked", "fine-tuned: gain", "re-ranked: gain"]
    assert first[1:7] == ["chance", *titles]
    assert "stroke: var(--reranked)" in page
    read = re.findall(r'<span class="soft">read, match (\S+)</span>\n<figure class="tile">.*alt="(.*?)">', page)
    assert len(read) == page.count('<article class="card query"')  # a row of words for each shown query
    assert all(0 <= float(match) <= 1 for match, _ in read)
    assert {"红色", "蓝色"} <= {word for _, word in read}
    terminal = format_headline(root / "results", None).splitlines()
    assert re.split(r" {2,}", terminal[0])[1:] == ["chance", "baseline", "fine-tuned", "re-ranked", *gain_titles]
    assert f"{late} %" in terminal[2]
    params = load_params(root / "params.yaml").evaluate
    shown = format_recall(read_results(root / "results", params.ks), params)
    assert "| test split | baseline | fine-tuned | re-ranked | " in shown
    assert all(
        "#123456" in svg for name, svg in draw_charts(root / "results/reranked").items() if "gallery" in name
    )
