"""The report for a pull request: Markdown with figures, without images and captions."""

from typing import Any

from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.tokens.token_stats import LOSS_COLUMNS
from tuwen.evaluation.headline import (
    format_estimate,
    format_gain,
    format_interval,
    tabulate_line,
    tabulate_models,
)
from tuwen.evaluation.metric import Estimate, format_number
from tuwen.evaluation.models import MODELS, SHIPPED, get_base, list_gain_titles, list_titles
from tuwen.evaluation.verdicts import is_sure_gain
from tuwen.report.reliability import format_reliability
from tuwen.report.reranking import format_reranking
from tuwen.report.small_vectors import format_small_vectors
from tuwen.report.tables import format_table

CANDIDATE_COLUMNS = ("state", "share in a mean with the baseline", "mean hit@5 on valid, %", "")
EPOCHS_SHOWN = 6  # lines of the condensed training table
ROWS_COLUMNS = ("source set", "table", "rows", "clean", "quarantined", "left out", "merged", "blank", "faults")


def format_markdown(facts: dict[str, Any]) -> str:
    """Format report.md from the facts that report.py collects: figures, no image, no caption."""
    sections = (
        *(_format_headline, format_reranking, _format_recall, _format_further, _format_slices, _format_hubs),
        *(_format_gallery, format_small_vectors, format_reliability, _format_zero_shot),
        *(_format_training, _format_doubt, _format_quality),
    )
    lines = ["# Retrieval report", "", *_format_lead(facts)]
    for section in sections:
        if body := section(facts):
            lines += ["", *body]
    return "\n".join(lines) + "\n"


def _format_lead(facts: dict[str, Any]) -> list[str]:
    sizes = facts["metrics"][SHIPPED]
    return [
        f"Test split: {sizes['images']} pictures, {sizes['texts']} texts; "
        f"{sizes['t2i_queries']} texts and {sizes['i2t_queries']} pictures are asked.",
        "Plain cosine over the whole gallery, no score correction, unless a column says QB-Norm.",
        facts["answering"],
        *([facts["overlap"]] if facts["overlap"] else []),
        "",
        *(f"- {verdict}" for verdict in facts["verdicts"]),
    ]


def _format_headline(facts: dict[str, Any]) -> list[str]:
    names = facts["metrics"]
    rows = [
        (
            hit.direction.title,
            hit.title,
            f"{hit.chance:{hit.metric.unit.form}}",
            *tabulate_models(hit, names),
            *(format_gain(gain, hit.metric, "**" if is_sure_gain(gain) else "") for gain in hit.gains.values()),
            format_estimate(corrected.models[SHIPPED], corrected.metric),
            format_gain(change.models[SHIPPED], change.metric),
        )
        for hit, corrected, change in zip(facts["hits"], facts["corrected"], facts["changes"], strict=True)
    ]
    qb_norm = (f"{MODELS[SHIPPED].title}, QB-Norm", "its change, points")
    header = ("direction", "", "chance", *list_titles(names), *list_gain_titles(names), *qb_norm)
    summary = [
        (line.direction.title if line.direction else "both", line.title, *tabulate_models(line, names))
        for line in facts["summary"]
    ]
    whole = ", all queries" if facts["overlap"] else ""
    return [
        f"## R@k (hit@k): any true item among the first k, in percent{whole}",
        "",
        *format_table(header, rows),
        "",
        f"In brackets: 95 % bootstrap intervals by group ({facts['evaluate'].bootstrap_samples} samples); "
        "those of differences are paired: both answer the same queries. Where few groups hit, miss or change, the "
        "interval is Clopper and Pearson's. Gains in bold are sure: their interval lies "
        "above 0. Chance: hit@k of a ranking at random.",
        "",
        *format_table(("direction", "", *list_titles(names)), summary),
    ]


def _format_recall(facts: dict[str, Any]) -> list[str]:
    names = facts["metrics"]
    rows = [(line.direction.title, line.title, *tabulate_models(line, names)) for line in facts["recalls"]]
    return [
        "## recall@k: found true items / all true items, in percent",
        "",
        *format_table(("direction", "", *list_titles(names)), rows),
    ]


def _format_further(facts: dict[str, Any]) -> list[str]:
    if not facts["further"]:
        return []
    names = facts["metrics"]
    header = ("direction", "", *list_titles(names), *list_gain_titles(names))
    rows = [tabulate_line(line, names) for line in facts["further"]]
    return ["## Further metrics", "", *format_table(header, rows)]


def _format_slices(facts: dict[str, Any]) -> list[str]:
    names = facts["metrics"]
    hit = facts["hits"][0].metric
    rows = [
        (
            DIRECTIONS[one.direction].title,
            one.title,
            one.queries,
            *(format_estimate(estimate, hit) for estimate in one.models.values()),
            *(format_gain(gain, hit) for gain in one.gains.values()),
        )
        for one in facts["slices"]
    ]
    return [
        f"## R@{facts['shown_k']} by kind of query, in percent",
        "",
        *format_table(("direction", "queries", "number", *list_titles(names), *list_gain_titles(names)), rows),
        "",
        facts["slices_note"],
    ]


def _format_hubs(facts: dict[str, Any]) -> list[str]:
    names = facts["metrics"]
    rows = []
    for plain, corrected in zip(facts["hubness"], facts["corrected_hubness"], strict=True):
        cells = (tabulate_models(line, names) for line in (plain, corrected))
        rows.append((plain.direction.title, *(cell for both in zip(*cells, strict=True) for cell in both)))
    header = ("direction", *(name for title in list_titles(names) for name in (title, f"{title}, QB-Norm")))
    return [
        f"## Hubs: skewness of how often an item is among the first {facts['details'][SHIPPED].hubs['t2i'].k}",
        "",
        *format_table(header, rows),
        "",
        "0: every item answers equally often; the higher, the fewer items answer most queries.",
    ]


def _format_gallery(facts: dict[str, Any]) -> list[str]:
    names = facts["metrics"]
    rows = []
    for direction in DIRECTIONS.values():
        curves = [
            {point["gallery"]: point["hit_at_5"] for point in details.gallery_curve[direction.name]}
            for details in facts["details"].values()
        ]
        for size in sorted({size for hits in curves for size in hits}):
            cells = (f"{100 * hits[size]:.1f}" if size in hits else "" for hits in curves)
            rows.append((direction.title, f"{size:,.0f}", *cells))
    return [
        "## R@5 by the size of the gallery, in percent",
        "",
        *format_table(("direction", "items", *list_titles(names)), rows),
    ]


def _format_zero_shot(facts: dict[str, Any]) -> list[str]:
    shipped = facts["zero_shot"][SHIPPED]
    classes, images = len(shipped.classes), shipped.pictures
    if not classes or not images:
        return ["## Zero-shot classification", "", "The test pictures have no categories."]
    prompts = {"one_prompt": "one prompt", "ensemble": "ensemble"}
    rows = [
        (MODELS[model].title, title, *map(_format_share, getattr(classified, key).list_estimates()))
        for model, classified in facts["zero_shot"].items()
        for key, title in prompts.items()
    ]
    return [
        "## Zero-shot classification, in percent",
        "",
        f"{images} test pictures by the names of their {classes} categories; chance is {100 / classes:.1f}, "
        f"always naming the largest category {100 * shipped.largest_share:.1f}. In brackets the 95 % interval.",
        "",
        *format_table(("model", "prompts", "top-1", "top-5"), rows),
    ]


def _format_share(percent: Estimate) -> str:
    return f"{percent.value:.1f} {format_interval(percent, '.1f')}"


def _select_epochs(epochs: list[Any]) -> list[Any]:
    """Return at most EPOCHS_SHOWN records, evenly spread, with the first and the last."""
    last, gaps = len(epochs) - 1, EPOCHS_SHOWN - 1
    return [epochs[n] for n in sorted({round(last * i / gaps) for i in range(EPOCHS_SHOWN)})] if epochs else []


def _format_training(facts: dict[str, Any]) -> list[str]:
    lines = ["## Training"]
    hits = (f"{average}valid_{direction}_hit_at_5" for average in ("", "ema_") for direction in DIRECTIONS)
    columns = ("loss", "temperature", *hits)
    for name, training in facts["training"].items():
        epochs = training["epochs"]
        lines += [
            "",
            f"**{MODELS[name].title}**: {training['pairs']} pairs, {training['steps']} steps, "
            f"{len(epochs)} epochs",
        ]
        keys = [key for key in columns if all(key in record for record in epochs)]  # an average is not always kept
        rows = [(record["epoch"], *(f"{record[key]:.4g}" for key in keys)) for record in _select_epochs(epochs)]
        lines += ["", *format_table(("epoch", *keys), rows)] if rows else []
        states = facts["candidates"][name]
        lines += ["", *format_table(CANDIDATE_COLUMNS, states)] if states else []
    losses = [row[:-1] for row in facts["losses"]]  # the examples are captions
    lines += (
        ["", "What the models do not see of captions:", "", *format_table(LOSS_COLUMNS[:-1], losses)]
        if losses
        else []
    )
    return lines


def _format_doubt(facts: dict[str, Any]) -> list[str]:
    doubt, finding = facts["doubt"], facts["doubt_finding"]
    base, mean = get_base().title, doubt["mean_cosine"]
    head = f"The {base} gives the bank's {doubt['pairs']} pairs a mean cosine of {format_number(mean, '.3f')}"
    if doubt["min_cosine"] is not None:
        share = 100 * doubt["share_under_min_cosine"]
        head += (
            f"; {share:.1f} % lie under {format_number(doubt['min_cosine'], 'g')} (params.yaml: pairs.min_cosine)"
        )
    warning = ["", f"**Too many:** {finding}."] if finding else []
    return ["## Doubtful pairs", "", f"{head}. report.html shows the lowest.", *warning]


def _format_quality(facts: dict[str, Any]) -> list[str]:
    quality = facts["quality"]
    return [
        "## Data quality",
        "",
        f"{quality['checks']} checks, {len(quality['failed'])} not met. {quality['corpus']}",
        "",
        *format_table(("set", "table", "check not met", "severity", "rows"), quality["failed"]),
        "",
        *format_table(ROWS_COLUMNS, quality["rows"]),
        "",
        *format_table(("clean set", "pictures", "texts", "pairs"), quality["sizes"]),
        "",
        *format_table(("split groups", ""), quality["groups"]),
    ]
