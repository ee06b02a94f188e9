"""The report for a pull request: Markdown with figures, without pictures and captions."""

from collections.abc import Iterable
from typing import Any

from tuwen.evaluation.headline import DIRECTIONS, MODELS

CANDIDATE_COLUMNS = ("state", "share in a mean with the baseline", "mean hit@5 on valid, %", "")
EPOCHS_SHOWN = 6  # lines of the condensed training table
CAME = ("source set", "table", "rows", "clean", "quarantined", "left out", "blank", "faults")


def format_markdown(facts: dict[str, Any]) -> str:
    """report.md from what report.py knows: figures, no picture, no caption."""
    sections = (_headline, _recall, _slices, _correction, _gallery, _zero_shot, _training, _doubt, _quality)
    lines = ["# Retrieval report", "", *_lead(facts)]
    for section in sections:
        lines += ["", *section(facts)]
    return "\n".join(lines) + "\n"


def _lead(facts: dict[str, Any]) -> list[str]:
    sizes = facts["metrics"]["finetuned"]
    return [
        f"Test split: {sizes['images']} pictures, {sizes['texts']} texts; "
        f"{sizes['t2i_queries']} texts and {sizes['i2t_queries']} pictures are asked.",
        "Plain cosine over the whole gallery, no score correction, unless a column says QB-Norm.",
        facts["answering"],
    ]


def _headline(facts: dict[str, Any]) -> list[str]:
    rows = [
        (
            DIRECTIONS[line.direction],
            f"R@{line.k}",
            *(_interval(p) for p in line.models.values()),
            _signed(line.gain, "**"),
            _interval(line.corrected["finetuned"]),
            _signed(line.change["finetuned"]),
        )
        for line in facts["lines"]
    ]
    both = [facts["metrics"][model] for model in MODELS]
    header = ("direction", "", *MODELS.values(), "gain, points", "fine-tuned, QB-Norm", "its change, points")
    summary = [("both", "R@M, the mean of all R@k", *(_interval(mean) for mean in facts["means"].values()))]
    summary += [
        (title, "median rank", *(f"{figures[f'{way}_median_rank']:g}" for figures in both))
        for way, title in DIRECTIONS.items()
    ]
    return [
        "## R@k (hit@k): any true item among the first k, in percent",
        "",
        *_table(header, rows),
        "",
        f"In brackets: 95 % bootstrap intervals by group ({facts['evaluate'].bootstrap_samples} samples); "
        "those of differences are paired: both answer the same queries.",
        "",
        *_table(("direction", "", *MODELS.values()), summary),
    ]


def _recall(facts: dict[str, Any]) -> list[str]:
    metrics = facts["metrics"]
    rows = [
        (title, f"recall@{k}", *(f"{100 * metrics[model][f'{way}_recall_at_{k}']:.1f}" for model in MODELS))
        for way, title in DIRECTIONS.items()
        for k in facts["evaluate"].ks
    ]
    return [
        "## recall@k: found true items / all true items, in percent",
        "",
        *_table(("direction", "", *MODELS.values()), rows),
    ]


def _slices(facts: dict[str, Any]) -> list[str]:
    rows = [
        (
            DIRECTIONS[one.direction],
            one.title,
            one.queries,
            *(_interval(p) for p in one.models.values()),
            _signed(one.gain),
        )
        for one in facts["slices"]
    ]
    return [
        f"## R@{facts['shown_k']} by kind of query, in percent",
        "",
        *_table(("direction", "queries", "number", *MODELS.values(), "gain, points"), rows),
        "",
        facts["slices_note"],
    ]


def _correction(facts: dict[str, Any]) -> list[str]:
    metrics, k = facts["metrics"], facts["details"]["finetuned"].hubs.t2i.k
    keys = ("hub_skewness", "qbnorm_hub_skewness")
    rows = [
        (title, *(f"{metrics[model][f'{way}_{key}']:.2f}" for model in MODELS for key in keys))
        for way, title in DIRECTIONS.items()
    ]
    header = ("direction", *(name for title in MODELS.values() for name in (title, f"{title}, QB-Norm")))
    return [
        f"## Hubs: skewness of how often an item is among the first {k}",
        "",
        *_table(header, rows),
        "",
        "0: every item answers equally often; the higher, the fewer items answer most queries.",
    ]


def _gallery(facts: dict[str, Any]) -> list[str]:
    rows = []
    for way, title in DIRECTIONS.items():
        both = [
            {point["gallery"]: point["hit_at_5"] for point in getattr(facts["details"][model].gallery_curve, way)}
            for model in MODELS
        ]
        for size in sorted(set(both[0]) | set(both[1])):
            rows.append(
                (title, f"{size:,.0f}", *(f"{100 * hit[size]:.1f}" if size in hit else "" for hit in both))
            )
    return [
        "## R@5 by the size of the gallery, in percent",
        "",
        *_table(("direction", "items", *MODELS.values()), rows),
    ]


def _zero_shot(facts: dict[str, Any]) -> list[str]:
    found = facts["zero_shot"]
    one = found["finetuned"]
    classes, pictures = len(one.classes), one.pictures
    if not classes or not pictures:
        return ["## Zero-shot classification", "", "The test pictures have no categories."]
    prompts = {"one_prompt": "one prompt", "ensemble": "ensemble"}
    rows = [
        (MODELS[model], title, f"{100 * getattr(its, key).top_1:.1f}", f"{100 * getattr(its, key).top_5:.1f}")
        for model, its in found.items()
        for key, title in prompts.items()
    ]
    return [
        "## Zero-shot classification, in percent",
        "",
        f"{pictures} test pictures by the names of their {classes} categories; chance is {100 / classes:.1f}, "
        f"always naming the largest category {100 * one.largest_share:.1f}.",
        "",
        *_table(("model", "prompts", "top-1", "top-5"), rows),
    ]


def _some(epochs: list[Any]) -> list[Any]:
    """At most EPOCHS_SHOWN records, evenly spread, with the first and the last."""
    last, gaps = len(epochs) - 1, EPOCHS_SHOWN - 1
    return [epochs[n] for n in sorted({round(last * i / gaps) for i in range(EPOCHS_SHOWN)})] if epochs else []


def _training(facts: dict[str, Any]) -> list[str]:
    lines = ["## Training"]
    known = (
        "loss",
        "temperature",
        *(f"{average}valid_{way}_hit_at_5" for average in ("", "ema_") for way in DIRECTIONS),
    )
    for model, title in MODELS.items():
        training = facts["training"][model]
        epochs = training["epochs"]
        lines += [
            "",
            f"**{title}**: {training['pairs']} pairs, {training['steps']} steps, {len(epochs)} epochs",
        ]
        keys = [key for key in known if all(key in record for record in epochs)]  # an average is not always kept
        rows = [(record["epoch"], *(f"{record[key]:.4g}" for key in keys)) for record in _some(epochs)]
        lines += ["", *_table(("epoch", *keys), rows)] if rows else []
        states = facts["candidates"][model]
        lines += ["", *_table(CANDIDATE_COLUMNS, states)] if states else []
    return lines


def _doubt(facts: dict[str, Any]) -> list[str]:
    doubt = facts["doubt"]
    return [
        "## Doubtful pairs",
        "",
        f"The baseline gives the bank's {doubt['pairs']} pairs a mean cosine of {doubt['mean_cosine']:.3f}; "
        f"{100 * doubt['share_under_min_cosine']:.1f} % lie under {doubt['min_cosine']:g} "
        "(params.yaml: pairs.min_cosine). report.html shows the lowest.",
    ]


def _quality(facts: dict[str, Any]) -> list[str]:
    quality = facts["quality"]
    return [
        "## Data quality",
        "",
        f"{quality['checks']} checks, {len(quality['failed'])} not met. {quality['corpus']}",
        "",
        *_table(("set", "table", "check not met", "severity", "rows"), quality["failed"]),
        "",
        *_table(CAME, quality["came"]),
        "",
        *_table(("clean set", "pictures", "texts", "pairs"), quality["sizes"]),
        "",
        *_table(("split groups", ""), quality["groups"]),
    ]


def _interval(p: Any) -> str:
    return f"{p.value:.1f} [{p.low:.1f}, {p.high:.1f}]"


def _signed(p: Any, strong: str = "") -> str:
    return f"{strong}{p.value:+.1f}{strong} [{p.low:+.1f}, {p.high:+.1f}]"


def _table(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> list[str]:
    names = list(header)
    lines = [names, ["---"] * len(names), *rows]
    return [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
