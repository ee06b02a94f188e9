import re

import numpy as np
import pytest

from tuwen.report.html.histogram import BINS, DASHES, draw_histogram


def words(svg):
    return [text.strip() for text in re.findall(r"<text[^>]*>(.*?)</text>", svg, re.S)]


@pytest.mark.parametrize("scale", ["linear", "whole", "log"])
@pytest.mark.parametrize("values", [[7.0], [7.0, 7.0, 7.0], [1.0, 2.0, 400.0]])
def test_every_series_with_a_value_is_drawn(scale, values):
    svg = draw_histogram("width", "width in pixels", {"t2i": np.array([*values, np.nan])}, scale)
    assert svg.startswith("<svg")
    assert "width in pixels" in words(svg)
    assert "var(--t2i)" in svg
    assert "var(--labelled)" not in svg


@pytest.mark.parametrize("values", [[], [np.nan, np.nan]])
def test_without_values_there_is_nothing_to_draw(values):
    assert draw_histogram("width", "width", dict.fromkeys(DASHES, np.array(values))) == ""


def test_zeros_have_no_place_on_a_logarithmic_axis():
    assert draw_histogram("size", "bytes", {"labelled": np.zeros(3)}, "log") == ""


def test_outliers_stand_in_the_last_bar_and_the_axis_says_so():
    usual = np.repeat(np.arange(5.0, 45.0), 100)
    told = "characters (bars at the ends: and beyond)"
    assert told in words(draw_histogram("chars", "characters", {"labelled": np.append(usual, 1e7)}, "whole"))
    assert told not in words(draw_histogram("chars", "characters", {"labelled": usual}, "whole"))


def test_cosines_are_drawn_to_the_very_lowest():
    cosines = np.append(np.linspace(0.4, 0.9, 5 * BINS), -0.8)
    svg = draw_histogram("cosines", "cosine", {"labelled": cosines}, mark=0.1)
    assert "−0.75" in words(svg)
    assert "(bars at the ends" not in svg
    assert svg == draw_histogram("cosines", "cosine", {"labelled": cosines}, mark=0.1)
