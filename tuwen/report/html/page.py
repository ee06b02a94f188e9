"""What pages that open offline are made of: templates, charts as SVG, images as small JPEGs.

Pages hold no script, and their own policy forbids every request. Equal facts give equal bytes.
"""

import base64
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tuwen.core.compat import import_matplotlib
from tuwen.data.formats.images import decode_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEMPLATES = Path(__file__).parents[1] / "templates"
THUMBNAIL_PX = 128
JPEG_QUALITY = 85
# matplotlib writes these colours, the page's style sheet decides what they are: light and dark need others
INK = "#010200"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "tuwen",
    "svg.fonttype": "none",  # text stays text, in the page's font
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}color": INK for part in ("label", "edge")},
}


def render(template: str, facts: Mapping[str, Any]) -> str:
    """Fill the template of this name, a file in `report/templates`, with `facts`; all text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["figure"] = _format_cell
    return templates.get_template(template).render(**facts) + "\n"


def _format_cell(cell: Any) -> Any:
    """Return a cell of a table as people read it: 400,000; 0.1235."""
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return cell
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}"


def make_placeholders(names: Mapping[str, str]) -> dict[str, str]:
    """Return name -> the colour to draw with, for names whose CSS colour is given: `{"loss": "var(--loss)"}`."""
    return {name: f"#0102{number:02x}" for number, name in enumerate(names, 1)}


def draw_svg(name: str, draw: Callable[["Axes"], None], colours: Mapping[str, str]) -> str:
    """Return an SVG element of what `draw` draws with `make_placeholders(colours)`; colours: name -> CSS colour.

    name: unique on the page, since charts on one page must not share ids.
    """
    import_matplotlib()
    from matplotlib import style
    from matplotlib.figure import Figure

    # not on top of a user's own matplotlibrc: equal facts give equal bytes for everybody
    with style.context(["default", STYLE]), io.StringIO() as file:
        figure = Figure(figsize=(5, 2.8), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(alpha=0.15, color=INK)
        draw(axes)
        axes.set_ylim(bottom=0)
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
        text = file.getvalue()
    element = text[text.index("<svg") :].replace(INK, "currentColor")
    for key, placeholder in make_placeholders(colours).items():
        element = element.replace(placeholder, colours[key])
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", element)


def make_thumbnail(encoded: bytes) -> str:
    """Return an image of at most THUMBNAIL_PX a side as the `data:` URI of a JPEG.

    Raises OSError as `decode_image`.
    """
    return encode_uri(decode_thumbnail(encoded))


def decode_thumbnail(encoded: bytes) -> Image.Image:
    """Return an image, RGB, of at most THUMBNAIL_PX a side. Raises OSError as `decode_image`."""
    image = decode_image(encoded)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return image


def encode_uri(image: Image.Image) -> str:
    """Return the `data:` URI of an image as a JPEG."""
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
