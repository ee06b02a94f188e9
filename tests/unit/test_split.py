import hashlib
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from tuwen import pairs
from tuwen.errors import UserError
from tuwen.params import Split
from tuwen.split import assign, merge_captions, near_clusters, split_groups, subset, with_groups
from tuwen.text import normalise

LONG = "一只白猫趴在窗台上晒太阳"


def pictures(*changes: dict[str, Any]) -> pd.DataFrame:
    """One row per dict; unless it says so, a picture shares nothing with the others."""
    rows = [
        {"image_id": f"图{n}.png", "positive_id": f"图{n}.png", "group": None, "sha256": f"sum {n}"}
        | {"dhash": f"{n:016x}", "red": 10, "green": 20, "blue": 30}
        | change
        for n, change in enumerate(changes)
    ]
    return pd.DataFrame(rows)


def captions(**by_picture: str) -> pd.DataFrame:
    rows = [(f"图{name[1:]}.png", normalise(caption)) for name, caption in by_picture.items()]
    return pd.DataFrame(rows, columns=["image_id", "normalised"])


def test_the_source_knows_its_groups() -> None:
    frame = pictures({"group": "猫"}, {"group": "狗"}, {"group": "猫"})
    assert split_groups(frame, captions(p0=LONG, p1=LONG, p2=LONG)) == ["猫", "狗", "猫"]


def test_groups_of_the_source_that_hold_equal_bytes_are_one() -> None:
    frame = pictures({"group": "厨师", "sha256": "same"}, {"group": "人"}, {"group": "男厨师", "sha256": "same"})
    assert split_groups(frame, captions()) == ["厨师", "人", "厨师"]


@pytest.mark.parametrize(
    "same",
    [
        {"sha256": "same"},
        {"positive_id": "原图.png"},
        {"dhash": "00ff00ff00ff00ff"},
    ],
)
def test_equal_pictures_are_one_group(same: dict[str, Any]) -> None:
    assert split_groups(pictures(same, {}, same), captions()) == ["图0.png", "图1.png", "图0.png"]


def test_an_equal_hash_of_another_colour_is_another_picture() -> None:
    heart = {"dhash": "00c6ffff7e3c1800"}
    frame = pictures(heart | {"red": 200}, heart | {"red": 150}, heart | {"red": 157})
    assert split_groups(frame, captions()) == ["图0.png", "图1.png", "图1.png"]


def test_near_colours_chain() -> None:
    frame = pictures(*({"dhash": "0f", "blue": blue} for blue in (0, 8, 16, 25)))
    numbers = near_clusters(frame).tolist()
    assert numbers[0] == numbers[1] == numbers[2] != numbers[3]


@pytest.mark.parametrize(
    ("one", "other", "joined"),
    [
        (LONG, LONG, True),
        ("窗台上的 ＣＡＴ 在睡觉", "窗台上的 cat 在睡觉", True),
        ("一只白猫在窗台", "一只白猫在窗台", False),  # seven characters: equal by chance
        (LONG, LONG + "。", False),
    ],
)
def test_equal_long_captions_join(one: str, other: str, joined: bool) -> None:
    groups = split_groups(pictures({}, {}), captions(p0=one, p1=other))
    assert (groups[0] == groups[1]) is joined


@pytest.mark.parametrize(("carriers", "groups"), [(20, 1), (21, 21)])
def test_a_caption_on_more_than_twenty_pictures_is_boilerplate(carriers: int, groups: int) -> None:
    frame = pictures(*[{}] * carriers)
    carried = captions(**{f"p{n}": "本站图片均来自网络" for n in range(carriers)})
    assert len(set(split_groups(frame, carried))) == groups


def test_groups_chain_over_different_reasons_and_ignore_the_order_of_rows() -> None:
    frame = pictures({"sha256": "same"}, {"sha256": "same", "dhash": "ff"}, {"dhash": "ff"}, {}, {})
    carried = captions(p2=LONG, p3=LONG)
    groups = dict(zip(frame["image_id"], split_groups(frame, carried), strict=True))
    assert list(groups.values()) == ["图0.png"] * 4 + ["图4.png"]
    turned = frame[::-1].reset_index(drop=True)
    assert dict(zip(turned["image_id"], split_groups(turned, carried[::-1]), strict=True)) == groups


def test_a_picture_without_a_group_joins_the_group_of_its_copy() -> None:
    frame = pictures({"group": "猫"}, {"sha256": "sum 0"}, {})
    assert split_groups(frame, captions()) == ["猫", "猫", "图2.png"]


def test_no_pictures_no_groups() -> None:
    assert split_groups(pictures({})[:0], captions()) == []


def test_assign_deals_the_groups_out_by_the_hash_of_their_name() -> None:
    names = [f"概念{n}" for n in range(25)]
    dealt = assign(names * 3, Split(seed=7, valid=0.1, test=0.2))
    ordered = sorted(names, key=lambda name: hashlib.sha256(f"7:{name}".encode()).hexdigest())
    assert [dealt[name] for name in ordered] == ["test"] * 5 + ["valid"] * 2 + ["train"] * 18
    assert assign(reversed(names), Split(seed=7, valid=0.1, test=0.2)) == dealt
    assert assign(names, Split(seed=8, valid=0.1, test=0.2)) != dealt


def test_another_group_leaves_most_where_they_are() -> None:
    names = [f"概念{n}" for n in range(100)]
    params = Split(seed=0, valid=0.1, test=0.2)
    before, after = assign(names, params), assign([*names, "新概念"], params)
    assert sum(before[name] != after[name] for name in names) <= 2


@pytest.mark.parametrize(
    ("valid", "test", "message"),
    [
        (0.1, 0.1, r"params\.yaml: split\.test: 0\.1 of 5 groups is none; raise it or add pictures"),
        (0.1, 0.4, r"params\.yaml: split\.valid: 0\.1 of 5 groups is none"),
        (0.6, 0.4, r"params\.yaml: split: 5 groups leave none for train; lower split\.valid or split\.test"),
    ],
)
def test_a_split_that_would_be_empty_is_an_error(valid: float, test: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        assign("甲乙丙丁戊", Split(seed=0, valid=valid, test=test))


@pytest.fixture
def fruits() -> pairs.PairSet:
    rows = [
        ("桃.png", "t0", "水果"),
        ("桃.png", "t1", "桃子"),
        ("梨.png", "t2", "水果 "),
        ("车.png", "t3", "汽车"),
    ]
    images = [{"image_id": name} for name in ("桃.png", "梨.png", "车.png")]
    texts = [{"text_id": text_id, "caption": caption} for _, text_id, caption in rows]
    ends = [{"pair_id": f"p{n}", "image_id": row[0], "text_id": row[1]} for n, row in enumerate(rows)]
    # the source may name one pair by two texts of equal caption
    texts.append({"text_id": "t4", "caption": "水果"})
    ends.append({"pair_id": "p4", "image_id": "梨.png", "text_id": "t4"})
    return pairs.PairSet(
        pa.Table.from_pylist(images, pairs.IMAGES),
        pa.Table.from_pylist(texts, pairs.TEXTS),
        pa.Table.from_pylist(ends, pairs.PAIRS),
    )


def test_a_subset_takes_pairs_and_texts_along(fruits: pairs.PairSet) -> None:
    part = subset(fruits, ["车.png", "桃.png"])
    assert part.images["image_id"].to_pylist() == ["桃.png", "车.png"]
    assert part.texts["text_id"].to_pylist() == ["t0", "t1", "t3"]
    assert part.pairs["pair_id"].to_pylist() == ["p0", "p1", "p3"]


def test_equal_captions_become_one_text_true_for_many_pictures(fruits: pairs.PairSet) -> None:
    normalised = {row["text_id"]: normalise(row["caption"]) for row in fruits.texts.to_pylist()}
    merged = merge_captions(fruits, normalised)
    assert merged.texts.to_pylist() == [
        {"text_id": "t0", "caption": "水果"},
        {"text_id": "t1", "caption": "桃子"},
        {"text_id": "t3", "caption": "汽车"},
    ]
    assert [tuple(row.values()) for row in merged.pairs.to_pylist()] == [
        ("p0", "桃.png", "t0"),
        ("p1", "桃.png", "t1"),
        ("p2", "梨.png", "t0"),
        ("p3", "车.png", "t3"),
    ]
    assert merged.pairs.schema == pairs.PAIRS


def test_the_group_column_is_filled(fruits: pairs.PairSet) -> None:
    filled = with_groups(fruits.images, ["甲", "甲", "乙"])
    assert filled.schema == pairs.IMAGES
    assert filled["group"].to_pylist() == ["甲", "甲", "乙"]
