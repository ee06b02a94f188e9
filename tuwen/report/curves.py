"""Charts of models as SVG inside a page: the same bytes for the same records, colours by the page."""

from collections.abc import Mapping, Sequence
from math import log10
from typing import TYPE_CHECKING, Any

from tuwen.evaluation.details import Bin, Scores
from tuwen.evaluation.models import MODELS
from tuwen.report.html.page import INK, draw_svg, make_placeholders

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAINING_CHARTS = {  # name -> label of the axis, and dashes of each key of training.json's records
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
K_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")  # of the ks, in their order, and round again

Epochs = Mapping[str, list[dict[str, Any]]]  # model -> the records of its training.json, which may be none
Points = Mapping[str, list[dict[str, float]]]  # model -> what details.json has of one direction's curve


def draw_training(epochs: Epochs) -> dict[str, str]:
    """Return name -> SVG element: the loss, and hit@5 on valid, that of averaged weights too."""
    return {name: _draw_by_epoch(name, *chart, epochs) for name, chart in TRAINING_CHARTS.items()}


def _list_colours() -> dict[str, str]:
    return {name: f"var(--{name})" for name in (*MODELS, "true", "false")}


def _draw_by_epoch(name: str, label: str, keys: Mapping[str, str], epochs: Epochs) -> str:
    from matplotlib.ticker import MaxNLocator

    def draw(axes: "Axes") -> None:
        axes.set(xlabel="epoch", ylabel=label)
        colours = make_placeholders(_list_colours())
        for model, records in epochs.items():
            for key, dashes in keys.items():
                points = [(n, record[key]) for n, record in enumerate(records, 1) if key in record]
                if points:
                    axes.plot(*zip(*points, strict=True), dashes, marker=".", color=colours[model])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return draw_svg(name, draw, _list_colours())


def draw_gallery_curve(name: str, points: Points, ks: list[int]) -> str:
    """Return an SVG element of how hit@k falls as the gallery grows: a line for each model and k, in per cent."""
    sizes = sorted({point["gallery"] for records in points.values() for point in records})

    def draw(axes: "Axes") -> None:
        axes.set(xlabel="items in the gallery", ylabel="hit@k in %", xscale="log")
        colours = make_placeholders(_list_colours())
        for model, records in points.items():
            for n, k in enumerate(ks):
                places = [(point["gallery"], 100 * point[f"hit_at_{k}"]) for point in records]
                dashes = K_DASHES[n % len(K_DASHES)]
                axes.plot(*zip(*places, strict=True), dashes, marker=".", color=colours[model])
        axes.minorticks_off()
        ticks = [size for size in sizes if log10(size).is_integer() and 2 * size <= sizes[-1]]
        axes.set_xticks([*ticks, sizes[-1]], [f"{size:,.0f}" for size in (*ticks, sizes[-1])])

    return draw_svg(name, draw, _list_colours()) if sizes else ""


def draw_depth_curve(
    name: str, model: str, points: list[dict[str, float]], ks: list[int], costs: Mapping[int, float] | None = None
) -> str:
    """Return an SVG element of hit@k in per cent by how many first answers a re-ranker reads; 1: none is moved.

    costs: depth -> milliseconds per query, for a second axis; they differ with the machine, so no page has them.
    """
    depths = [point["k"] for point in points]

    def draw(axes: "Axes") -> None:
        axes.set(xlabel="first answers that are read, pairs per query", ylabel="hit@k in %", xscale="log")
        colour = make_placeholders(_list_colours())[model]
        for n, k in enumerate(ks):
            places = [100 * point[f"hit_at_{k}"] for point in points]
            axes.plot(depths, places, K_DASHES[n % len(K_DASHES)], marker=".", color=colour)
        axes.minorticks_off()
        axes.set_xticks(depths, [f"{depth:.0f}" for depth in depths])
        if costs:
            above = axes.secondary_xaxis("top")
            above.set(xlabel="milliseconds per query")
            above.set_xticks(list(costs), [f"{cost:.3g}" for cost in costs.values()])
            above.minorticks_off()

    return draw_svg(name, draw, _list_colours())


def draw_reliability(name: str, bins: Mapping[str, Sequence[Bin]]) -> str:
    """Return an SVG element of how often first answers are right by how often that was said.

    bins: of each model that has a line.
    """

    def draw(axes: "Axes") -> None:
        axes.set(xlabel="probability that was said, %", ylabel="right, %", xlim=(0, 100), ylim=(0, 104))
        axes.plot((0, 100), (0, 100), ":", color=INK, alpha=0.5)
        colours = make_placeholders(_list_colours())
        for model, own in bins.items():
            axes.plot(
                [100 * one.said for one in own], [100 * one.seen for one in own], marker=".", color=colours[model]
            )

    return draw_svg(name, draw, _list_colours())


def draw_scores(counted: Mapping[str, Scores]) -> dict[str, str]:
    """Return model -> SVG element: how far apart the cosines of true and false pairs lie, in per cent of each.

    All models are drawn over the range in which any has a pair, so that they compare.
    """
    ranges = [_find_range(one) for one in counted.values()]
    low, high = min(first for first, _ in ranges), max(last for _, last in ranges)
    return {model: _draw_scores(f"scores_{model}", one, low, high) for model, one in counted.items()}


def _find_range(counted: Scores) -> tuple[float, float]:
    """Return the edges outside of which nothing was counted."""
    filled = [n for n, both in enumerate(zip(counted.true, counted.false, strict=True)) if any(both)]
    return counted.edges[filled[0]], counted.edges[filled[-1] + 1]


def _draw_scores(name: str, counted: Scores, low: float, high: float) -> str:
    kept = [n for n, edge in enumerate(counted.edges[:-1]) if low <= edge < high]
    step = -(-len(kept) // BARS)
    starts = kept[::step]
    edges = [counted.edges[n] for n in (*starts, kept[-1] + 1)]

    def draw(axes: "Axes") -> None:
        axes.set(xlabel="cosine", ylabel="% of pairs")
        colours = make_placeholders(_list_colours())
        for key, counts in (("false", counted.false), ("true", counted.true)):
            bars = [100 * sum(counts[n : min(n + step, kept[-1] + 1)]) / max(1, sum(counts)) for n in starts]
            if key == "true":
                axes.stairs(bars, edges, fill=True, color=colours[key], alpha=0.25)
            axes.stairs(bars, edges, color=colours[key], linewidth=1.4)

    return draw_svg(name, draw, _list_colours())
