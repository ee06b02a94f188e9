"""A map over its picture: light where it is high, nothing where the model did not look."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tuwen.report import heat
from tuwen.report.heat import draw_heat, draw_sheet
from tuwen.retrieval.attention.entity_maps import EntityMap

CORNER = np.array([[1, 0], [0, 0]], np.float32)
NOTHING = np.zeros((2, 2), np.float32)


def make_picture(width: int, height: int) -> Image.Image:
    """A picture of grey values, from black at its left to white."""
    grey = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8), (height, width))
    return Image.fromarray(np.stack([grey] * 3, axis=-1))


def measure_light(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"), float)


def test_the_picture_is_light_where_the_map_is_high() -> None:
    drawn = measure_light(draw_heat(Image.new("RGB", (80, 80), "grey"), CORNER))
    assert drawn.shape == (80, 80)
    quarters = drawn.reshape(2, 40, 2, 40).mean((1, 3))
    assert quarters[0, 0] > 2 * quarters[1, 1]
    assert quarters[0, 1] > quarters[1, 1]  # it fades
    assert drawn[0, 0] == drawn.max()


def test_the_picture_can_still_be_seen() -> None:
    drawn = measure_light(draw_heat(make_picture(100, 100), np.ones((3, 3), np.float32)))
    assert (np.diff(drawn[50, ::10]) > 0).all()


@pytest.mark.parametrize("size", [(300, 100), (100, 300)])
def test_what_the_model_did_not_see_bears_no_colours(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (100, 100, 100))
    drawn = np.asarray(draw_heat(picture, np.ones((2, 2), np.float32)))
    coloured = (drawn != 100).any(-1)
    along = coloured.any(0 if size[0] > size[1] else 1)
    assert along.tolist() == [False] * 50 + [True] * 200 + [False] * 50
    assert coloured.sum() == 200 * 100


def test_a_map_of_nothing_leaves_grey() -> None:
    drawn = np.asarray(draw_heat(Image.new("RGB", (10, 10), "red"), NOTHING))
    assert (drawn == drawn[0, 0, 0]).all()


def test_a_sheet_has_a_panel_for_the_picture_and_for_each_word(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.new("RGB", (640, 320), "red")
    maps = [EntityMap(word, CORNER) for word in ("圆盘", "方块", "三角", "菱形")]
    width, height = heat.PANEL_PX + heat.GAP_PX, heat.PANEL_PX // 2 + heat.LABEL_PX + heat.GAP_PX

    def draw_panels() -> list[np.ndarray]:
        sheet = np.asarray(draw_sheet(picture, maps))
        assert sheet.shape == (2 * height + heat.GAP_PX, 4 * width + heat.GAP_PX, 3)
        tops, lefts = ([heat.GAP_PX + n * step for n in range(4)] for step in (height, width))
        return [sheet[top : top + height, left : left + heat.PANEL_PX] for top in tops[:2] for left in lefts]

    monkeypatch.setattr(heat, "CHINESE_FONTS", ())
    panels = draw_panels()
    assert (panels[0][: heat.PANEL_PX // 2] == [255, 0, 0]).all()
    expected = np.asarray(draw_heat(picture.resize((320, 160)), CORNER))
    for n, panel in enumerate(panels[1:5], 1):
        assert (panel[: heat.PANEL_PX // 2] == expected).all()
        label = Image.new("RGB", (heat.PANEL_PX, heat.LABEL_PX), "white")
        ImageDraw.Draw(label).text((0, 4), f"{n}", "black", ImageFont.load_default(heat.WORD_PX))
        assert (panel[heat.PANEL_PX // 2 : -heat.GAP_PX] == np.asarray(label)).all()
    for empty in panels[5:]:
        assert (empty == 255).all()

    from matplotlib import get_data_path  # its font has no Chinese, but draws something for each character

    monkeypatch.setattr(heat, "CHINESE_FONTS", ((f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", 0),))
    with_words = draw_panels()
    assert (with_words[1][heat.PANEL_PX // 2 :, 100:] == 255).all()
    assert (with_words[1][heat.PANEL_PX // 2 :] < 128).sum() > (panels[1][heat.PANEL_PX // 2 :] < 128).sum()
