import numpy as np
import pytest
from PIL import Image

from tests.support.broken import encode, landscape, rotated_jpeg
from tuwen.data.formats.near_images import looks
from tuwen.data.formats.near_images.looks import THUMB_PX, measure_look


def read_levels(encoded: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the brightness [32, 32] and the two colour differences [2, 16, 16] of a thumbnail."""
    levels = np.frombuffer(measure_look(encoded).thumbnail, np.uint8).astype(int)
    return levels[: THUMB_PX**2].reshape(THUMB_PX, THUMB_PX), levels[THUMB_PX**2 :].reshape(2, 16, 16)


@pytest.mark.parametrize("size", [(320, 240), (321, 243), (640, 480), (639, 479), (129, 300)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_copy_in_another_size_and_format_has_nearly_the_same_thumbnail(size: tuple[int, int], kind: str) -> None:
    bright, colours = read_levels(encode(landscape(*size), kind))
    for width in (100, 154, 192):
        copy = landscape(*size).resize((width, round(width * size[1] / size[0])), Image.Resampling.LANCZOS)
        others = read_levels(encode(copy, "JPEG", quality=85))
        assert np.abs(bright - others[0]).mean() < 2
        assert np.abs(colours - others[1]).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_thumbnail_shows_all_of_a_picture_upright_and_its_colours(kind: str) -> None:
    picture = Image.new("RGB", (643, 481), "white")
    picture.paste("blue", (0, 0, 643, 120))
    bright, colours = read_levels(encode(picture, kind))
    assert bright.mean() == pytest.approx(255 - 226 * 120 / 481, abs=1.5)
    assert (bright[:7].max(), bright[9:].min()) == (pytest.approx(29, abs=1), pytest.approx(255, abs=1))
    assert colours[:, 0, 0].tolist() == pytest.approx([255, 107], abs=2)
    assert colours[:, -1, -1].tolist() == pytest.approx([128, 128], abs=1)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_jpeg_looks_like_the_upright_one(orientation: int) -> None:
    upright, turned = (read_levels(rotated_jpeg(way, 323, 245))[0] for way in (1, orientation))
    assert np.abs(upright - turned).mean() < 2


def test_without_simplejpeg_pillow_measures_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = encode(landscape(640, 480), "JPEG")
    fast = read_levels(encoded)[0]
    monkeypatch.setattr(looks, "_decode_small_jpeg", lambda *_: None)
    assert np.abs(fast - read_levels(encoded)[0]).mean() < 1
