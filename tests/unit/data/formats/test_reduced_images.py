"""JPEGs decoded at a fraction of their size, and the views that are made of them."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.support.training import caption, drawn, settings
from tuwen.data.augment.views import Viewer
from tuwen.data.formats.images import decode_pixels, decode_reduced


def photograph(width: int, height: int, **saved) -> bytes:
    """Smooth colours with some grain, as a JPEG."""
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 3, height))
    grain = np.random.default_rng(0).normal(0, 3, (height, width, 3))
    waves = np.stack([np.sin(x * 2), np.cos(y + x), np.sin(x * y)], axis=-1) * 100 + 128
    encoded = io.BytesIO()
    Image.fromarray(np.clip(waves + grain, 0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=95, **saved)
    return encoded.getvalue()


@pytest.mark.parametrize(("side", "factor"), [(127, 1), (128, 2), (255, 2), (257, 4), (600, 8)])
def test_a_jpeg_is_decoded_no_larger_than_needed(side, factor) -> None:
    width = side + side // 3
    pixels, found = decode_reduced(photograph(width, side), 64)
    assert found == factor
    assert pixels.shape == (side // factor, width // factor, 3)


def test_a_reduced_picture_shows_what_the_whole_one_shows() -> None:
    encoded = photograph(333, 260)
    whole, (reduced, factor) = decode_pixels(encoded), decode_reduced(encoded, 64)
    assert factor == 4
    boxes = whole[: 65 * 4, : 83 * 4].reshape(65, 4, 83, 4, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(boxes - reduced).mean() < 1.5


def test_a_reduced_picture_stands_upright_and_other_formats_stay_whole() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels, factor = decode_reduced(photograph(301, 200, exif=turned), 50)
    assert (pixels.shape, factor) == ((75, 50, 3), 4)
    assert decode_reduced(drawn(3), 4)[1] == 1
    with pytest.raises(OSError, match=r".+"):
        decode_reduced(photograph(301, 200)[:2000], 50)


def test_a_view_of_a_reduced_picture_is_nearly_that_of_the_whole_one() -> None:
    row = {"pair_id": "1", "positive_id": "1", "caption": caption(1), "paraphrase": None, "mirroring": "free"}
    encoded, size_px = photograph(700, 500), 48
    small = Viewer(settings().baseline.policy.model_copy(update={"outline": 0.0}), size_px, 0)
    whole = small.render(decode_pixels(encoded), row, 1)
    pixels, reduced = decode_reduced(encoded, small.enough_px)
    made = small.render(pixels, row, 1, reduced)
    assert reduced == 4
    assert made.recipe == whole.recipe
    assert np.abs(made.pixels.astype(int) - whole.pixels).mean() < 1.5
