"""Which changes of a picture are found again, and which other pictures are not taken for it."""

import io
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from tests.support.broken import encode
from tuwen.data.formats.near_images import near_looks
from tuwen.data.formats.near_images.looks import measure_look
from tuwen.data.formats.near_images.near_looks import (
    HeldOut,
    collect_thumbnails,
    find_near_thumbnails,
    find_near_within,
)

Pixels = Image.Image


def draw_photo(seed: int, size: tuple[int, int] = (320, 240)) -> Pixels:
    """Return a picture with detail at every scale, as photographs have."""
    draw, pixels = np.random.default_rng(seed), np.zeros((size[1], size[0], 3))
    for side in (3, 6, 12, 48):
        layer = Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8))
        pixels += np.asarray(layer.resize(size, Image.Resampling.BICUBIC)) / side**0.5
    return Image.fromarray((pixels * 255 / pixels.max()).astype(np.uint8))


def draw_icon(seed: int) -> Pixels:
    """Return a face as icons have it, with a mouth, a cheek and a hat of its own."""
    draw, icon = np.random.default_rng(seed), Image.new("RGB", (144, 144), "white")
    pen = ImageDraw.Draw(icon)
    pen.ellipse((22, 22, 122, 122), "gold", "black", 4)
    left, top, width, height = (int(one) for one in draw.integers((35, 70, 20, 8), (60, 95, 45, 25)))
    pen.ellipse((left, top, left + width, top + height), "maroon")
    right, high, side = (int(one) for one in draw.integers((75, 40, 10), (95, 60, 25)))
    pen.rectangle((right, high, right + side, high + side), str(draw.choice(["navy", "green", "purple"])))
    hat = int(draw.integers(20, 90))
    pen.polygon([(hat, 30), (hat + 40, 30), (hat + 20, int(draw.integers(2, 16)))], "gray")
    return icon


def cut(picture: Pixels, share: float = 0.05) -> Pixels:
    across, down = (round(side * share) for side in picture.size)
    return picture.crop((across, down, picture.width - across, picture.height - down))


def put_in_frame(picture: Pixels) -> Pixels:
    across, down = (round(side * 0.05) for side in picture.size)
    return ImageOps.expand(picture, (across, down), "black")


def write_on(picture: Pixels) -> Pixels:
    marked = picture.copy()
    ImageDraw.Draw(marked).text(
        (picture.width * 0.5, picture.height * 0.85), "图文.example", "white", font_size=18
    )
    return marked


CHANGES = {
    "compressed": lambda picture: Image.open(io.BytesIO(encode(picture, "JPEG", quality=30))),
    "mirrored": ImageOps.mirror,
    "cut": cut,
    "cut by a tenth": lambda picture: cut(picture, 0.1),
    "in a frame": put_in_frame,
    "half": lambda picture: picture.reduce(2),
    "mirrored and cut": lambda picture: ImageOps.mirror(cut(picture)),
    "grey": lambda picture: picture.convert("L"),
}
OF_PHOTOS = {
    "marked": write_on,
    "brighter and paler": lambda picture: ImageEnhance.Color(
        ImageEnhance.Brightness(picture).enhance(1.2)
    ).enhance(0.7),
}


def look(picture: Pixels, quality: int = 85) -> bytes:
    return measure_look(encode(picture, "JPEG", quality=quality)).thumbnail


def are_near(one: bytes, other: bytes) -> bool:
    near = any(
        len(rows) for rows, _ in find_near_thumbnails(collect_thumbnails([one]), collect_thumbnails([other]))
    )
    assert HeldOut(collect_thumbnails([one])).is_near(other) is near, "asked about alone"
    assert HeldOut(collect_thumbnails([other])).is_near(one) is near, "and the other way round"
    return near


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("draw", [draw_photo, draw_icon])
def test_a_changed_copy_is_near(draw, change) -> None:
    pictures = [draw(seed) for seed in range(5)]
    assert [are_near(look(picture), look(change(picture), quality=75)) for picture in pictures] == [True] * 5


@pytest.mark.parametrize("change", OF_PHOTOS.values(), ids=OF_PHOTOS.keys())
def test_a_photograph_is_known_by_its_shapes_alone(change) -> None:
    pictures = [draw_photo(seed) for seed in range(5)]
    assert [are_near(look(picture), look(change(picture))) for picture in pictures] == [True] * 5


def cut_out(picture: Pixels) -> Pixels:
    """Return a photograph as shops show goods: small, on white."""
    ground = Image.new("RGB", picture.size, "white")
    small = picture.resize((picture.width * 45 // 100, picture.height * 45 // 100))
    ground.paste(small, (picture.width // 4, picture.height // 4))
    return ground


def test_goods_on_white_that_were_re_coloured_are_known_where_their_shapes_are_all_but_equal() -> None:
    goods = [cut_out(draw_photo(seed)) for seed in range(5)]
    repainted = [Image.merge("RGB", [one.getchannel(name) for name in "BGR"]) for one in goods]
    turned = [Image.blend(one, other, 0.4) for one, other in zip(goods, repainted, strict=True)]
    thumbnails = collect_thumbnails([look(one) for one in goods])
    shading = near_looks.describe_windows(thumbnails, 0.0).shading
    assert (shading < near_looks.MIN_SHADING).all()
    assert [are_near(look(one), look(copy)) for one, copy in zip(goods, turned, strict=True)] == [True] * 5
    assert not any(len(rows) for rows, _ in find_near_within(thumbnails))


@pytest.mark.parametrize("draw", [draw_photo, draw_icon])
def test_other_pictures_are_not_near(draw) -> None:
    thumbnails = collect_thumbnails([look(draw(seed)) for seed in range(40)])
    assert not any(len(rows) for rows, _ in find_near_within(thumbnails))


def draw_clock(hour: int) -> Pixels:
    """Return a clock with one hand; the hours of its left half are mirror images of those of the right one."""
    if hour > 6:
        return ImageOps.mirror(draw_clock(12 - hour))
    clock, angle = Image.new("RGB", (144, 144), "white"), np.pi / 6 * hour
    pen = ImageDraw.Draw(clock)
    pen.ellipse((12, 12, 131, 131), "white", "black", 5)
    pen.line((71.5, 71.5, 71.5 + 40 * np.sin(angle), 71.5 - 40 * np.cos(angle)), "black", 6)
    return clock


def test_two_hours_of_a_clock_are_two_pictures_and_one_mirrored_is_near_to_its_counterpart() -> None:
    clocks = {hour: look(draw_clock(hour)) for hour in range(1, 12)}
    near = {
        (one, other)
        for one, other in product(clocks, clocks)
        if one < other and are_near(clocks[one], clocks[other])
    }
    assert near == {(hour, 12 - hour) for hour in range(1, 6)}


def test_a_shape_in_another_colour_is_another_picture() -> None:
    def draw_disc(colour: str) -> bytes:
        disc = Image.new("RGB", (144, 144), "white")
        ImageDraw.Draw(disc).ellipse((24, 24, 120, 120), colour)
        return look(disc)

    assert not are_near(draw_disc("green"), draw_disc("brown")), "as bright as each other"
    assert not are_near(draw_disc("black"), draw_disc("gray"))
    assert are_near(draw_disc("#e00000"), draw_disc("#e40606"))


def test_the_bound_finds_what_comparing_all_pairs_finds() -> None:
    pictures = [draw(seed) for draw in (draw_photo, draw_icon) for seed in range(30)]
    pictures += [
        change(picture) for change in (*CHANGES.values(), *OF_PHOTOS.values()) for picture in pictures[::10]
    ]
    thumbnails = collect_thumbnails([look(picture) for picture in pictures])
    count, expected = len(pictures), set()
    whole = near_looks._add_mirrored(near_looks.describe_windows(thumbnails, 0.0))
    for margin in near_looks.MARGINS:
        rows, others = np.divmod(np.arange(2 * count * count), count)
        near = near_looks._compare(whole, rows, near_looks.describe_windows(thumbnails, margin), others, margin)
        ends = np.sort(np.stack([rows[near] % count, others[near]]), axis=0)
        expected |= {(one, other) for one, other in ends.T.tolist() if one != other}
    found = {
        pair
        for part in find_near_within(thumbnails)
        for pair in zip(*(ends.tolist() for ends in part), strict=True)
    }
    assert found == expected
    assert len(found) > 50
    half = find_near_thumbnails(thumbnails[: count // 2], thumbnails[count // 2 :])
    across = {pair for part in half for pair in zip(*(ends.tolist() for ends in part), strict=True)}
    assert {(one, other + count // 2) for one, other in across} == {
        (one, other) for one, other in expected if one < count // 2 <= other
    }


def test_without_relief_or_thumbnails_nothing_is_near() -> None:
    plain = look(Image.new("RGB", (64, 64), "beige"))
    assert not are_near(plain, plain)
    none = collect_thumbnails([])
    assert list(find_near_within(none)) == list(find_near_thumbnails(none, collect_thumbnails([plain]))) == []
    assert not HeldOut(none).is_near(plain)
