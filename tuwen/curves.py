"""Training curves as SVG that stands inside a page: the same bytes for the same records, colours by the page."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tuwen.page import placeholders, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"baseline": "var(--baseline)", "finetuned": "var(--finetuned)"}
FIGURES = {
    "loss": ("training loss", {"loss": "-"}),
    "hit": ("hit@5 on valid", {"valid_t2i_hit_at_5": "-", "valid_i2t_hit_at_5": "--"}),
}


def curves(epochs: Mapping[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Figure name -> SVG element; epochs: model -> the records of its training.json, which may be none."""
    return {name: _draw(name, *figure, epochs) for name, figure in FIGURES.items()}


def _draw(name: str, label: str, keys: Mapping[str, str], epochs: Mapping[str, list[dict[str, Any]]]) -> str:
    from matplotlib.ticker import MaxNLocator

    def draw(axes: "Axes") -> None:
        axes.set(xlabel="epoch", ylabel=label)
        colours = placeholders(COLOURS)
        for model, records in epochs.items():
            for key, dashes in keys.items():
                points = [record[key] for record in records]
                axes.plot(range(1, len(points) + 1), points, dashes, marker=".", color=colours[model])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return svg(name, draw, COLOURS)
