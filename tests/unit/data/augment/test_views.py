import json
import random

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.support.views import POLICY, draw_image, write_clean
from tuwen.data.augment.views import View, Viewer, find_positive, list_rows
from tuwen.data.formats import pairs
from tuwen.data.formats.images import Pixels, resize_to_square

STILL = POLICY.model_copy(
    update={
        "crop_scale": [1.0, 1.0],
        "crop_ratio": [1.0, 1.0],
        "rotate_degrees": 0.0,
        "zoom": [1.0, 1.0],
        "colour": 0.0,
        "grey": 0.0,
        "outline": 0.0,
        "text": [],
    }
)
CROPPED = STILL.model_copy(update={"flip": False, "crop_scale": [0.5, 1.0], "crop_ratio": [0.8, 1.25]})


def make_row(
    pair_id: str = "p1", caption: str = "动物、熊、黑白", paraphrase: str | None = None, mirroring: str = "free"
) -> dict:
    return {"pair_id": pair_id, "caption": caption, "paraphrase": paraphrase, "mirroring": mirroring}


def render_views(policy, number: int = 60, size_px: int = 32, **columns) -> list[View]:
    """Render view 1 of many pairs over the drawing."""
    viewer, image = Viewer(policy, size_px, 0), draw_image()
    return [viewer.render(image, make_row(f"p{n}", **columns), 1) for n in range(number)]


def draw_landscape(width: int, height: int) -> Image.Image:
    """Draw detail at several scales, as photographs have it."""
    draw, image = np.random.default_rng(0), np.full((height, width, 3), 128, np.float32)
    for cells, strength in ((4, 45), (20, 25), (60, 10)):
        layer = draw.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC)
    return Image.fromarray(np.clip(image, 40, 215).astype(np.uint8))


def mean_difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(int) - other).mean())


def test_view_0_is_the_square_image_with_its_caption() -> None:
    view = Viewer(POLICY, 32, 0).render(draw_image(), make_row(paraphrase="黑白熊"), 0)
    assert np.array_equal(view.pixels, resize_to_square(draw_image(), 32))
    assert view[1:] == ("动物、熊、黑白", False, None, '{"rule":"square"}')


def test_a_view_depends_on_pair_view_and_seed_alone() -> None:
    viewer, image = Viewer(POLICY, 32, 0), draw_image()
    first = [viewer.render(image, make_row(), view) for view in range(1, 8)]
    viewer.render(draw_landscape(50, 40), make_row("other", "一只大熊猫"), 3)  # what came before must not matter
    fresh = Viewer(POLICY, 32, 0)
    again = [fresh.render(draw_image(), make_row(), view) for view in range(7, 0, -1)][::-1]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert one[1:] == other[1:]
    assert len({view.pixels.tobytes() for view in first}) == 7
    assert not np.array_equal(Viewer(POLICY, 32, 1).render(image, make_row(), 1).pixels, first[0].pixels)


def test_a_flip_mirrors_about_half_of_the_views_and_nothing_else() -> None:
    rendered = render_views(STILL)
    assert 15 < sum(view.flipped for view in rendered) < 45
    assert all(view.pixels[4, 4].tolist() == ([0, 0, 255] if view.flipped else [255, 0, 0]) for view in rendered)
    assert all(json.loads(view.recipe)["flip"] == view.flipped for view in rendered)


def test_a_sided_image_is_never_flipped() -> None:
    rendered = render_views(STILL, caption="跑步者", mirroring="swap")
    assert not any(view.flipped for view in rendered)
    assert all(view.pixels[4, 4].tolist() == [255, 0, 0] for view in rendered)


def test_with_swap_a_sided_image_is_flipped_and_its_words_change_sides() -> None:
    policy = STILL.model_copy(update={"flip_captions": "swap"})
    rendered = render_views(policy, caption="左边是红色", paraphrase="红色在左侧", mirroring="swap")
    seen = {(view.flipped, view.caption, view.reworded) for view in rendered}
    assert seen == {
        (False, "左边是红色", None),
        (True, "右边是红色", "swap_sides"),
        (False, "红色在左侧", "paraphrase"),
        (True, "红色在右侧", "paraphrase,swap_sides"),
    }


@pytest.mark.parametrize("flip_captions", ["keep", "swap"])
def test_a_name_or_a_text_in_the_picture_keeps_it_unmirrored_with_the_caption_unchanged(
    flip_captions: str,
) -> None:
    policy = STILL.model_copy(update={"flip_captions": flip_captions})
    for caption in ("左宗棠收复新疆", "T恤胸前印有“中国队”字样"):
        rendered = render_views(policy, caption=caption, mirroring="keep")
        assert {(view.flipped, view.caption, view.reworded) for view in rendered} == {(False, caption, None)}


def test_a_wording_of_which_a_cut_leaves_no_place_is_not_mirrored() -> None:
    policy = STILL.model_copy(update={"flip_captions": "swap", "text": ["drop_from_list"]})
    rendered = render_views(policy, caption="靠左、左宗棠", mirroring="swap")  # as if the whole were swapped
    assert {view.flipped for view in rendered if view.caption == "左宗棠"} == {False}
    assert not any("右宗棠" in view.caption for view in rendered)


def test_half_of_the_views_take_the_paraphrase_and_are_marked() -> None:
    rendered = render_views(STILL, caption="一只大熊猫", paraphrase="一头大熊猫")
    change_of = {"一只大熊猫": None, "一头大熊猫": "paraphrase"}
    assert all(view.reworded == change_of[view.caption] for view in rendered)
    assert 15 < sum(view.reworded is not None for view in rendered) < 45
    lists = {view.reworded for view in render_views(POLICY.model_copy(update={"zoom": [1.0, 1.0]}))}
    assert lists == {None, "shuffle_list", "drop_from_list", "shuffle_list,drop_from_list"}


def test_a_crop_is_redone_by_its_recipe_and_shows_no_aliases() -> None:
    image, boxes = draw_landscape(300, 220), set()
    for view in range(1, 8):
        rendered = Viewer(CROPPED, 48, 0).render(image, make_row(), view)  # 300 x 220 is halved first
        box = json.loads(rendered.recipe)["box"]
        redone = image.crop(box).resize((48, 48), Image.Resampling.BICUBIC)
        assert mean_difference(rendered.pixels, np.asarray(redone)) < 2.5
        assert 0.45 < (box[2] - box[0]) * (box[3] - box[1]) / (300 * 220) <= 1
        boxes.add(tuple(box))
    assert len(boxes) == 7


@pytest.mark.parametrize("size", [(320, 180), (150, 300), (400, 80)])
def test_crops_of_wide_and_tall_images_differ_and_keep_their_shape(size: tuple[int, int]) -> None:
    viewer, image = Viewer(CROPPED, 32, 0), draw_landscape(*size)
    boxes = [json.loads(viewer.render(image, make_row(), view).recipe)["box"] for view in range(1, 9)]
    aspect = min(max(size[0] / size[1], 0.5), 2)
    shapes = [(right - left) / (lower - upper) / aspect for left, upper, right, lower in boxes]
    assert all(0.78 < shape < 1.28 for shape in shapes)
    if max(size) <= 2 * min(size):
        assert len({tuple(box) for box in boxes}) == 8


def test_one_warp_turns_zooms_and_crops_as_the_steps_would() -> None:
    import albumentations

    policy = CROPPED.model_copy(update={"rotate_degrees": 30.0, "zoom": [0.6, 1.2]})
    image = draw_landscape(160, 120)
    for view in range(1, 6):
        rendered = Viewer(policy, 64, 0).render(image, make_row(), view)
        recipe = json.loads(rendered.recipe)
        turn, (x, y) = recipe["turn"], recipe["zoom"]
        affine = albumentations.Affine(rotate=(turn, turn), scale={"x": (x, x), "y": (y, y)}, fill=255, p=1)
        turned = affine(image=np.asarray(image))["image"]
        left, upper, right, lower = recipe["box"]
        redone = cv2.resize(turned[upper:lower, left:right], (64, 64), interpolation=cv2.INTER_AREA)
        assert mean_difference(rendered.pixels, redone) < 4
    corners = [view.pixels[0, 0].tolist() for view in render_views(policy.model_copy(update={"zoom": [0.5, 0.5]}))]
    assert [255, 255, 255] in corners  # the ground is white


def test_colours_change_as_pillow_changes_them_one_after_the_other() -> None:
    image = draw_landscape(64, 64).point(lambda value: value // 2 + 40)  # Pillow clips after each step
    viewer = Viewer(STILL.model_copy(update={"flip": False, "colour": 0.3}), 64, 0)
    plain = Image.fromarray(
        Viewer(STILL.model_copy(update={"flip": False}), 64, 0).render(image, make_row(), 1).pixels
    )
    factors = set()
    for view in range(1, 21):
        rendered = viewer.render(image, make_row(), view)
        brightness, contrast, saturation = json.loads(rendered.recipe).get("colour", (1, 1, 1))
        steps = ImageEnhance.Brightness(plain).enhance(brightness)
        steps = ImageEnhance.Color(ImageEnhance.Contrast(steps).enhance(contrast)).enhance(saturation)
        assert mean_difference(rendered.pixels, np.asarray(steps)) < 2  # Pillow rounds down three times
        factors.add((brightness, contrast, saturation))
    assert 14 <= len(factors) <= 19  # four of five change
    assert all(0.7 <= factor <= 1.3 for changed in factors for factor in changed)


def test_grey_views_have_no_colour() -> None:
    for view in render_views(STILL.model_copy(update={"grey": 1.0}), 5):
        assert np.ptp(view.pixels.astype(int), axis=2).max() <= 1
        assert json.loads(view.recipe)["colour"] == [1.0, 1.0, 0.0]


def test_outlines_are_black_where_colours_meet() -> None:
    policy = STILL.model_copy(update={"flip": False, "outline": 1.0})
    (view,) = render_views(policy, 1, 96)
    assert view.pixels[40, 48].max() < 100
    assert view.pixels[40, 20].tolist() == [255, 0, 0]


def test_rows_are_the_true_pairs_and_any_caption_or_paraphrase_decides_on_mirroring_the_image(tmp_path) -> None:
    train = pairs.read_pair_set(
        write_clean(tmp_path, {"train": ["跑步者面向右边", "赛跑、运动", "一只猫", "一条狗"]}) / "train"
    )
    links = [
        *(("p0", "train0", "ttrain0", None), ("p1", "train0", "ttrain1", 1), ("p2", "train1", "ttrain1", 1)),
        *(("p3", "train2", "ttrain0", 0), ("p4", "train2", "ttrain2", 1), ("p5", "train3", "ttrain3", None)),
    ]
    linked = [dict(zip(("pair_id", "image_id", "text_id", "label"), link, strict=True)) for link in links]
    random.Random(0).shuffle(linked)
    table = pairs.pa.Table.from_pylist(linked, pairs.PAIRS)
    rows = list_rows(
        pairs.PairSet(train.images, train.texts, table), {"一条狗": "狗在左边", "赛跑、运动": "跑步"}
    ).to_pylist()
    assert [row["pair_id"] for row in rows] == [link["pair_id"] for link in linked if link["label"] != 0]
    by_pair = {row["pair_id"]: row for row in rows}
    mirroring = {name: row["mirroring"] for name, row in by_pair.items()}
    assert mirroring == {"p0": "swap", "p1": "swap", "p2": "free", "p4": "free", "p5": "swap"}
    named = pairs.PairSet(train.images, train.texts, table), {"跑步者面向右边": "左丘明面向右边"}
    assert [row["mirroring"] for row in list_rows(*named).to_pylist() if row["pair_id"] in ("p0", "p1")] == [
        "keep"
    ] * 2
    image = train.images.to_pylist()[1]
    assert by_pair["p2"] == {
        **{
            "pair_id": "p2",
            "positive_id": "train1",
            "caption": "赛跑、运动",
            "paraphrase": "跑步",
            "mirroring": "free",
        },
        **{name: image[name] for name in ("shard", "offset", "size")},
    }
    assert by_pair["p4"]["paraphrase"] is None


def test_a_mirrored_image_whose_caption_tells_sides_is_no_sibling_of_itself() -> None:
    assert find_positive({"positive_id": "a", "mirroring": "swap"}, True) != "a"
    assert find_positive({"positive_id": "a", "mirroring": "free"}, True) == "a"
    assert find_positive({"positive_id": "a", "mirroring": "swap"}, False) == "a"
