"""The report for a pull request: Markdown with figures, without pictures and captions."""

from collections.abc import Iterable
from typing import Any

MODELS = {"baseline": "baseline", "finetuned": "fine-tuned"}
DIRECTIONS = {"t2i": "text → image", "i2t": "image → text"}
EPOCHS_SHOWN = 6  # lines of the condensed training table
CAME = ("source set", "table", "rows", "clean", "quarantined", "left out", "blank", "faults")


def markdown(facts: dict[str, Any]) -> str:
    """report.md from what report.py knows: figures, no picture, no caption."""
    metrics, quality, doubt, ks = facts["metrics"], facts["quality"], facts["doubt"], facts["evaluate"].ks
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
            facts["answering"],
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
            "## Doubtful pairs",
            "",
            f"The baseline gives the bank's {doubt['pairs']} pairs a mean cosine of {doubt['mean_cosine']:.3f}; "
            f"{100 * doubt['share_under_min_cosine']:.1f} % lie under {doubt['min_cosine']:g} "
            "(params.yaml: pairs.min_cosine). report.html shows the lowest.",
            "",
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
            "",
        ]
    )


def _some(epochs: list[Any]) -> list[Any]:
    """At most EPOCHS_SHOWN records, evenly spread, with the first and the last."""
    last, gaps = len(epochs) - 1, EPOCHS_SHOWN - 1
    return [epochs[n] for n in sorted({round(last * i / gaps) for i in range(EPOCHS_SHOWN)})] if epochs else []


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
