"""Training curves as SVG that stands inside a page: the same bytes for the same records, colours by the page."""

import io
import re
from collections.abc import Mapping
from typing import Any

# matplotlib writes these colours, the page's style sheet decides what they are: light and dark need others.
INK = "#010203"
COLOURS = {"baseline": "#010204", "finetuned": "#010205"}
MEANINGS = {INK: "currentColor"} | {colour: f"var(--{model})" for model, colour in COLOURS.items()}
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "tuwen",
    "svg.fonttype": "none",  # text stays text, in the page's font
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}color": INK for part in ("label", "edge")},
}
FIGURES = {
    "loss": ("training loss", {"loss": "-"}),
    "hit": ("hit@5 on valid", {"valid_t2i_hit_at_5": "-", "valid_i2t_hit_at_5": "--"}),
}


def curves(epochs: Mapping[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Figure name -> SVG element; epochs: model -> the records of its training.json, which may be none."""
    return {name: _draw(name, *figure, epochs) for name, figure in FIGURES.items()}


def _draw(name: str, label: str, keys: Mapping[str, str], epochs: Mapping[str, list[dict[str, Any]]]) -> str:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(STYLE), io.StringIO() as file:
        figure = Figure(figsize=(5, 2.8), layout="constrained")
        axes = figure.add_subplot(xlabel="epoch", ylabel=label)
        for model, records in epochs.items():
            for key, dashes in keys.items():
                points = [record[key] for record in records]
                axes.plot(range(1, len(points) + 1), points, dashes, marker=".", color=COLOURS[model])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.15, color=INK)
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
        drawn = file.getvalue()
    svg = drawn[drawn.index("<svg") :]
    for colour, meaning in MEANINGS.items():
        svg = svg.replace(colour, meaning)
    # two figures on one page must not share ids
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
