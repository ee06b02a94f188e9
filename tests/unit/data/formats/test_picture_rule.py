"""What a picture becomes by each rule; tests of the weights compare the rules with the libraries' own."""

import numpy as np
import pytest

from tests.support.weights import draw_pictures
from tuwen.data.formats.images import resize_to_square
from tuwen.data.formats.picture_rule import PictureRule, count_patches, make_strip, read_grid, resize_by_rule

WIDE = draw_pictures()[0]  # 90 × 60


def test_the_projects_rule_is_the_square_of_before() -> None:
    assert np.array_equal(resize_by_rule(WIDE, PictureRule(32)), resize_to_square(WIDE, 32))
    assert np.array_equal(resize_by_rule(np.asarray(WIDE), PictureRule(32)), resize_to_square(WIDE, 32))


def test_a_crop_is_the_middle_of_the_picture_at_its_own_aspect() -> None:
    row = np.arange(90, dtype=np.uint8)[None, :, None].repeat(30, 0).repeat(3, 2)
    cropped = resize_by_rule(row, PictureRule(30, "crop", resize_px=30))
    assert np.array_equal(cropped, row[:, 30:60])
    assert np.array_equal(resize_by_rule(row[:, :59], PictureRule(30, "crop")), row[:, 14:44])
    assert np.array_equal(resize_by_rule(row[:, :59], PictureRule(30, "crop", rounds=True)), row[:, 14:44])
    assert np.array_equal(resize_by_rule(row[:, :61], PictureRule(30, "crop")), row[:, 15:45])
    assert np.array_equal(resize_by_rule(row[:, :61], PictureRule(30, "crop", rounds=True)), row[:, 16:46])


def test_a_picture_that_is_one_pixel_high_is_cropped_without_a_wide_one_in_between() -> None:
    line = np.full((1, 60_000, 3), 9, np.uint8)
    assert np.array_equal(resize_by_rule(line, PictureRule(32, "crop")), np.full((32, 32, 3), 9, np.uint8))


def test_a_strip_holds_all_patches_and_their_grid() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    strip = make_strip(pixels, 16, 8)
    assert strip.shape == (9 * 16, 16, 3)
    assert read_grid(strip[-16, :2]) == (2, 3)
    assert np.array_equal(strip[4 * 16 : 5 * 16], pixels[16:32, 16:32])
    assert not strip[6 * 16 : 8 * 16].any()
    assert read_grid(np.array([[44, 1, 0], [1, 0, 0]])) == (300, 1)


@pytest.mark.parametrize(("most", "grid"), [(6, (2, 3)), (64, (6, 9)), (1, (1, 1))])
def test_patches_keep_about_the_aspect_and_no_more_than_allowed(most: int, grid: tuple[int, int]) -> None:
    rows, columns = count_patches(WIDE.size, 16, most)
    assert (rows, columns) == grid
    assert rows * columns <= most


def test_small_pictures_take_the_first_step_that_is_enough() -> None:
    rule = PictureRule(32, "patches", patch_px=16, patches=64, steps=(4, 16, 64))
    assert read_grid(resize_by_rule(WIDE, rule)[-16, :2]) == count_patches(
        WIDE.size, 16, 16
    )  # 5 × 3 = 15 of its own
    small = WIDE.resize((33, 35))
    assert read_grid(resize_by_rule(small, rule)[-16, :2]) == count_patches(small.size, 16, 4)
