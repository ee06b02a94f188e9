from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from tests.support.looks import draw_thumbnail
from tuwen.data.formats import pairs
from tuwen.data.formats.text import normalise
from tuwen.data.quality.duplicates import groups
from tuwen.data.quality.duplicates.groups import join_copies, number_copies, replace_groups

LONG = "一只白猫趴在窗台上晒太阳"


def make_images(*changes: dict[str, Any]) -> pd.DataFrame:
    """Return one row per dict; unless the dict says otherwise, an image shares nothing with the others."""
    rows = [
        {"image_id": f"图{n}.png", "positive_id": f"图{n}.png", "group": None, "sha256": f"sum {n}"}
        | {"thumbnail": draw_thumbnail(1000 + n), "blank": False}
        | change
        for n, change in enumerate(changes)
    ]
    return pd.DataFrame(rows)


def find_split_groups(images: pd.DataFrame, captions: pd.DataFrame, largest: int = 100) -> list[str]:
    return groups.find_split_groups(images, captions, 20, largest)


def make_captions(**by_image: str) -> pd.DataFrame:
    """Return one row per caption; the keyword `p3` stands for the image 图3.png."""
    rows = [(f"图{name[1:]}.png", f"句{name}", normalise(caption)) for name, caption in by_image.items()]
    return pd.DataFrame(rows, columns=["image_id", "text_id", "normalised"])


def test_the_groups_of_the_source_are_kept() -> None:
    frame = make_images({"group": "猫"}, {"group": "狗"}, {"group": "猫"})
    assert find_split_groups(frame, make_captions(p0=LONG, p1=LONG, p2=LONG)) == ["猫", "狗", "猫"]


def test_groups_of_the_source_that_hold_equal_bytes_are_one() -> None:
    frame = make_images(
        {"group": "厨师", "sha256": "same"}, {"group": "人"}, {"group": "男厨师", "sha256": "same"}
    )
    assert find_split_groups(frame, make_captions()) == ["厨师", "人", "厨师"]


@pytest.mark.parametrize(
    "same",
    [{"sha256": "same"}, {"positive_id": "原图.png"}, {"thumbnail": draw_thumbnail(0)}],
)
def test_equal_images_are_one_group(same: dict[str, Any]) -> None:
    assert find_split_groups(make_images(same, {}, same), make_captions()) == ["图0.png", "图1.png", "图0.png"]


@pytest.mark.parametrize("changes", [{"mirrored": True}, {"margin": 0.05}, {"mirrored": True, "margin": 0.05}])
def test_a_changed_copy_is_in_the_group_of_its_picture(changes: dict[str, Any]) -> None:
    one, copy = {"thumbnail": draw_thumbnail(0)}, {"thumbnail": draw_thumbnail(0, **changes)}
    groups = find_split_groups(make_images(one, {}, copy), make_captions())
    assert groups == ["图0.png", "图1.png", "图0.png"]


@pytest.mark.parametrize(
    ("one", "other", "joined"),
    [
        (LONG, LONG, True),
        ("窗台上的 ＣＡＴ 在睡觉", "窗台上的 cat 在睡觉", True),
        ("一只白猫在窗台", "一只白猫在窗台", True),
        ("驴。", "驴。", True),
        ("草莓。", " 草莓。", True),
        ("草莓", "草莓。", True),
        (LONG, LONG + "呢", False),
    ],
)
def test_equal_captions_join_however_short_they_are(one: str, other: str, joined: bool) -> None:
    first, second = find_split_groups(make_images({}, {}), make_captions(p0=one, p1=other))
    assert (first == second) is joined


@pytest.mark.parametrize(("carriers", "count"), [(20, 1), (21, 21)])
def test_a_caption_on_more_images_than_allowed_is_boilerplate(carriers: int, count: int) -> None:
    frame = make_images(*[{}] * carriers)
    carried = make_captions(**{f"p{n}": "本站图片均来自网络" for n in range(carriers)})
    assert len(set(find_split_groups(frame, carried))) == count


def test_captions_of_few_images_join_first_and_none_makes_a_group_too_large() -> None:
    """红 is on four images and would chain both pairs; 驴。 and 草莓。 are on two each."""
    frame = make_images(*[{}] * 6)
    carried = pd.concat([make_captions(p0="驴。", p1="驴。", p2="草莓。", p3="草莓。"),
                         make_captions(p1="红", p2="红", p4="红", p5="红")])  # fmt: skip
    names = [f"图{n}.png" for n in (0, 0, 2, 2, 4, 5)]
    assert find_split_groups(frame, carried, largest=5) == names
    assert find_split_groups(frame, carried[::-1], largest=5) == names
    assert find_split_groups(frame, carried, largest=6) == ["图0.png"] * 6


def test_groups_chain_over_different_reasons_and_ignore_the_order_of_rows() -> None:
    look = {"thumbnail": draw_thumbnail(0)}
    frame = make_images(
        {"sha256": "same"}, {"sha256": "same"} | look, {"thumbnail": draw_thumbnail(0, mirrored=True)}, {}, {}
    )
    carried = make_captions(p2=LONG, p3=LONG)
    named = dict(zip(frame["image_id"], find_split_groups(frame, carried), strict=True))
    assert list(named.values()) == ["图0.png"] * 4 + ["图4.png"]
    turned = frame[::-1].reset_index(drop=True)
    assert dict(zip(turned["image_id"], find_split_groups(turned, carried[::-1]), strict=True)) == named


def test_an_image_without_a_group_joins_the_group_of_its_copy() -> None:
    frame = make_images({"group": "猫"}, {"sha256": "sum 0"}, {})
    assert find_split_groups(frame, make_captions()) == ["猫", "猫", "图2.png"]


def test_groups_of_the_source_are_never_joined_by_a_guess() -> None:
    """An image of unknown group joins what is near to it, and nothing else."""
    near = [{"thumbnail": draw_thumbnail(0, margin=margin)} for margin in (0.0, 0.09, 0.17, 0.24, 0.24)]
    frame = make_images(*(look | {"group": name} for look, name in zip(near, "甲乙丙丁戊", strict=True)), {}, {})
    frame.loc[6, "group"] = "己"
    carried = make_captions(p0=LONG, p1=LONG, p5=LONG[1:], p6=LONG[1:])
    assert find_split_groups(frame, carried) == [*"甲乙丙丁戊己己"]
    frame.loc[0, "group"] = None
    assert find_split_groups(frame, carried) == [*"乙乙丙丁戊己己"]
    frame.loc[1, "group"] = None
    assert find_split_groups(frame, carried) == [*"丙丙丙丁戊己己"]
    frame.loc[3, "group"] = None
    assert find_split_groups(frame, carried) == [*"丙丙丙丙丙己己"], "chains through an unknown one"


@pytest.mark.parametrize(("carriers", "count"), [(2, 1), (20, 1), (21, 21)])
def test_images_of_one_text_are_one_group(carriers: int, count: int) -> None:
    frame = make_images(*[{}] * carriers)
    carried = make_captions(**{f"p{n}": "山水画" for n in range(carriers)}).assign(text_id="句0")
    assert len(set(find_split_groups(frame, carried))) == count
    known = frame.assign(group=[f"概念{n}" for n in range(carriers)])
    assert len(set(find_split_groups(known, carried))) == carriers, "the source knows better"


def test_no_images_no_groups() -> None:
    assert find_split_groups(make_images({})[:0], make_captions()) == []


def test_the_group_column_is_replaced() -> None:
    images = pa.Table.from_pylist([{"image_id": name} for name in ("桃.png", "梨.png", "车.png")], pairs.IMAGES)
    filled = replace_groups(images, ["甲", "甲", "乙"])
    assert filled.schema == pairs.IMAGES
    assert filled["group"].to_pylist() == ["甲", "甲", "乙"]


def test_images_of_equal_bytes_and_their_siblings_have_one_original() -> None:
    rows = [
        {"image_id": "丙", "positive_id": "丙", "sha256": "s"},
        {"image_id": "乙", "positive_id": "原图", "sha256": "s"},
        {"image_id": "丁", "positive_id": "丙", "sha256": "t"},
        {"image_id": "戊", "positive_id": "戊", "sha256": None},
        {"image_id": "己", "positive_id": "己", "sha256": None},
    ]
    joined = join_copies(pa.Table.from_pylist(rows, pairs.IMAGES))
    first = min("丙乙丁")
    original = next(row["positive_id"] for row in rows if row["image_id"] == first)
    assert joined["positive_id"].to_pylist() == [original] * 3 + ["戊", "己"]
    assert joined.schema == pairs.IMAGES


def test_copies_are_equal_bytes_and_chains_of_near_images() -> None:
    near = [{"thumbnail": draw_thumbnail(0, margin=margin)} for margin in (0.0, 0.09, 0.17)]
    twins = [{"sha256": "same"}, {"sha256": "same"}, *near, {}]
    numbers = number_copies(make_images(*twins)).tolist()
    assert numbers[0] == numbers[1]
    assert numbers[2] == numbers[3] == numbers[4]
    assert len(set(numbers)) == 3
