"""Histograms as SVG inside a page: sets drawn over each other, each in per cent of its own rows."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tuwen.report.html.page import INK, draw_svg, make_placeholders

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = npt.NDArray[np.float64]
Scale = Literal["linear", "whole", "log"]

BINS = 40
SHOWN_QUANTILES = (0.005, 0.995)  # of sizes: what lies beyond in every series stands in the bars at the ends
TICKS = 6  # at most, on a logarithmic axis
# of each series: dashes tell apart what colours do not
DASHES = {"labelled": "-", "corpus": (0, (1, 1)), "t2i": (0, (5, 2)), "i2t": (0, (5, 1, 1, 1))}
COLOURS = {name: f"var(--{name})" for name in DASHES}


def draw_histogram(
    name: str, label: str, series: Mapping[str, Values], scale: Scale = "linear", mark: float | None = None
) -> str:
    """Return an SVG element, empty where no series has a value.

    name: unique on the page; series: one of `DASHES` -> its values, NaN where unknown; scale: "whole"
    draws bars of whole numbers, "log" positive values alone; mark: where a dashed line stands.
    """
    finite = {
        key: values[np.isfinite(values) & ((values > 0) | (scale != "log"))] for key, values in series.items()
    }
    finite = {key: values for key, values in finite.items() if len(values)}
    if not finite:
        return ""
    edges = _choose_edges(list(finite.values()), scale)
    beyond = any(values.min() < edges[0] or values.max() > edges[-1] for values in finite.values())

    def draw(axes: "Axes") -> None:
        axes.set(xlabel=f"{label} (bars at the ends: and beyond)" if beyond else label, ylabel="% of rows")
        colours = make_placeholders(COLOURS)
        for key, values in finite.items():
            counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
            style: dict[str, Any] = {"color": colours[key], "linestyle": DASHES[key], "linewidth": 1.4}
            if key == "labelled":
                axes.stairs(100 * counts / len(values), edges, fill=True, color=colours[key], alpha=0.25)
            axes.stairs(100 * counts / len(values), edges, **style)
        if mark is not None:
            axes.axvline(mark, color=INK, linestyle="--", linewidth=1)
        if scale == "log":
            _set_log_axis(axes, edges)
        if scale == "whole":
            axes.locator_params(axis="x", integer=True)

    return draw_svg(name, draw, COLOURS)


def _choose_edges(series: list[Values], scale: Scale) -> Values:
    """Return edges of at most BINS bars; no series is empty."""
    lowest, highest = (0.0, 1.0) if scale == "linear" else SHOWN_QUANTILES
    low = min(float(np.quantile(values, lowest, method="lower")) for values in series)
    high = max(float(np.quantile(values, highest, method="higher")) for values in series)
    if scale == "whole":
        step = max(1, int(np.ceil((high - low + 1) / BINS)))
        return np.arange(low, high + 1 + step, step, dtype=np.float64)
    if low == high:
        return np.array([low / 1.1, high * 1.1] if scale == "log" else [low - 0.5, high + 0.5])
    return np.geomspace(low, high, BINS + 1) if scale == "log" else np.linspace(low, high, BINS + 1)


def _set_log_axis(axes: "Axes", edges: Values) -> None:
    axes.set_xscale("log")
    low, high = edges[0], edges[-1]
    tens = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = np.sort(np.concatenate([tens, 2 * tens, 5 * tens]))
    ticks = ticks[(ticks >= low) & (ticks <= high)]
    if len(ticks) > TICKS:
        ticks = tens[(tens >= low) & (tens <= high)]
    if len(ticks) < 2:
        ticks = np.array([low, high])
    axes.set_xticks(ticks, [f"{tick:.2g}" if tick < 10 else f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()
