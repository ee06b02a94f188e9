"""A map over the patches of a picture, drawn over it: the picture in grey, the map in colours from dark to light.

Equal maps give equal pixels, but for the words of a sheet, which need a Chinese font of the machine's.
Shapes: S patches a side.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tuwen.core.compat import import_matplotlib
from tuwen.data.formats.images import find_seen_box
from tuwen.retrieval.attention.entity_maps import EntityMap, PatchMap

COLOUR_MAP = "inferno"
COVER = 0.6  # share of the colours where they lie over the picture
PANEL_PX, GAP_PX, LABEL_PX, WORD_PX = 320, 12, 34, 22
COLUMNS = 4
# file name, and which of the file's fonts is the one for simplified characters
CHINESE_FONTS = (
    ("NotoSansCJK-Regular.ttc", 2),
    ("SourceHanSansSC-Regular.otf", 0),
    ("wqy-microhei.ttc", 0),
    ("msyh.ttc", 0),
    ("PingFang.ttc", 0),
    ("Hiragino Sans GB.ttc", 0),
)


def draw_heat(picture: Image.Image, patches: PatchMap) -> Image.Image:
    """Return `picture`, RGB, in its own size under a map [S, S]; light is where the map is high.

    The map is stretched over what the model saw, so of a picture over 2:1 the ends bear no colours; nor does
    anything where the map is all 0.
    """
    import_matplotlib()
    from matplotlib import colormaps

    grey = picture.convert("L").convert("RGB")
    if not patches.any():
        return grey
    box = left, top, right, bottom = find_seen_box(*picture.size)
    level = Image.fromarray(np.rint(255 * (patches / patches.max())).astype(np.uint8))
    heat = np.asarray(level.resize((right - left, bottom - top), Image.Resampling.BILINEAR))
    colour_of = colormaps[COLOUR_MAP](np.arange(256), bytes=True)[:, :3]
    grey.paste(Image.blend(grey.crop(box), Image.fromarray(colour_of[heat]), COVER), (left, top))
    return grey


def draw_sheet(picture: Image.Image, maps: Sequence[EntityMap]) -> Image.Image:
    """Return one picture of panels: `picture`, RGB, and it under each map, numbered from 1, with its word."""
    shown = picture.copy()
    shown.thumbnail((PANEL_PX, PANEL_PX))
    panels = [("", shown), *((f"{n} {one.word}", draw_heat(shown, one.patches)) for n, one in enumerate(maps, 1))]
    columns = min(COLUMNS, len(panels))
    width, height = shown.width + GAP_PX, shown.height + LABEL_PX + GAP_PX
    size = (columns * width + GAP_PX, math.ceil(len(panels) / columns) * height + GAP_PX)
    sheet, font = Image.new("RGB", size, "white"), _load_chinese_font()
    draw = ImageDraw.Draw(sheet)
    for number, (label, panel) in enumerate(panels):
        left, top = GAP_PX + number % columns * width, GAP_PX + number // columns * height
        sheet.paste(panel, (left, top))
        if font is None:
            label = label.partition(" ")[0]
        draw.text((left, top + shown.height + 4), label, "black", font or ImageFont.load_default(WORD_PX))
    return sheet


def _load_chinese_font() -> ImageFont.FreeTypeFont | None:
    for name, number in CHINESE_FONTS:
        try:
            return ImageFont.truetype(name, WORD_PX, number)
        except OSError:
            continue
    return None
