"""Curves as SVG that stands inside a page: the same bytes for the same records, colours by the page."""

from collections.abc import Mapping
from math import log10
from typing import TYPE_CHECKING, Any

from tuwen.evaluation.findings import Scores
from tuwen.report.html.page import placeholders, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {name: f"var(--{name})" for name in ("baseline", "finetuned", "true", "false")}
FIGURES = {
    "loss": ("training loss", {"loss": "-"}),
    "hit": (
        "hit@5 on valid",
        {
            "valid_t2i_hit_at_5": "-",
            "valid_i2t_hit_at_5": "--",
            "ema_valid_t2i_hit_at_5": "-.",
            "ema_valid_i2t_hit_at_5": ":",
        },
    ),
}
BARS = 50  # of a histogram at most: finer counts are joined
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")  # of the ks, in their order, and round again

Epochs = Mapping[str, list[dict[str, Any]]]  # model -> the records of its training.json, which may be none
Points = Mapping[str, list[dict[str, float]]]  # model -> what details.json has of one direction's curve


def draw_training(epochs: Epochs) -> dict[str, str]:
    """Figure name -> SVG element: the loss, and hit@5 on valid, that of averaged weights too."""
    return {name: _by_epoch(name, *figure, epochs) for name, figure in FIGURES.items()}


def _by_epoch(name: str, label: str, keys: Mapping[str, str], epochs: Epochs) -> str:
    from matplotlib.ticker import MaxNLocator

    def draw(axes: "Axes") -> None:
        axes.set(xlabel="epoch", ylabel=label)
        colours = placeholders(COLOURS)
        for model, records in epochs.items():
            for key, dashes in keys.items():
                points = [(n, record[key]) for n, record in enumerate(records, 1) if key in record]
                if points:
                    axes.plot(*zip(*points, strict=True), dashes, marker=".", color=colours[model])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return svg(name, draw, COLOURS)


def draw_gallery_curve(name: str, points: Points, ks: list[int]) -> str:
    """How hit@k falls as the gallery grows: a line for each model and k, in per cent, as an SVG element."""
    sizes = sorted({point["gallery"] for records in points.values() for point in records})

    def draw(axes: "Axes") -> None:
        axes.set(xlabel="items in the gallery", ylabel="hit@k in %", xscale="log")
        colours = placeholders(COLOURS)
        for model, records in points.items():
            for n, k in enumerate(ks):
                known = [(point["gallery"], 100 * point[f"hit_at_{k}"]) for point in records]
                axes.plot(*zip(*known, strict=True), DASHES[n % len(DASHES)], marker=".", color=colours[model])
        axes.minorticks_off()
        ticks = [size for size in sizes if log10(size).is_integer() and 2 * size <= sizes[-1]]
        axes.set_xticks([*ticks, sizes[-1]], [f"{size:,.0f}" for size in (*ticks, sizes[-1])])

    return svg(name, draw, COLOURS) if sizes else ""


def draw_scores(counted: Mapping[str, Scores]) -> dict[str, str]:
    """Model -> SVG element: how far apart the cosines of true and of false pairs lie, each in per cent of its own.

    All models are drawn over the range in which any has a pair, so that they compare.
    """
    filled = [_filled(one) for one in counted.values()]
    low, high = min(first for first, _ in filled), max(last for _, last in filled)
    return {model: _scores(f"scores_{model}", one, low, high) for model, one in counted.items()}


def _filled(counted: Scores) -> tuple[float, float]:
    """The edges outside of which nothing was counted."""
    filled = [n for n, both in enumerate(zip(counted.true, counted.false, strict=True)) if any(both)]
    return counted.edges[filled[0]], counted.edges[filled[-1] + 1]


def _scores(name: str, counted: Scores, low: float, high: float) -> str:
    kept = [n for n, edge in enumerate(counted.edges[:-1]) if low <= edge < high]
    step = -(-len(kept) // BARS)
    starts = kept[::step]
    edges = [counted.edges[n] for n in (*starts, kept[-1] + 1)]

    def draw(axes: "Axes") -> None:
        axes.set(xlabel="cosine", ylabel="% of pairs")
        colours = placeholders(COLOURS)
        for key, counts in (("false", counted.false), ("true", counted.true)):
            bars = [100 * sum(counts[n : min(n + step, kept[-1] + 1)]) / max(1, sum(counts)) for n in starts]
            if key == "true":
                axes.stairs(bars, edges, fill=True, color=colours[key], alpha=0.25)
            axes.stairs(bars, edges, color=colours[key], linewidth=1.4)

    return svg(name, draw, COLOURS)
