import hashlib
from dataclasses import replace
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from tuwen.core.errors import UserError
from tuwen.core.params import Split
from tuwen.data.formats import pairs
from tuwen.data.formats.text import normalise
from tuwen.data.quality.split import (
    assign,
    copies,
    join_copies,
    leaks_prevented,
    merge_captions,
    split_groups,
    subset,
    with_groups,
)

PARAMS = Split(seed=0, valid=0.25, test=0.25, official=True)
LONG = "一只白猫趴在窗台上晒太阳"


def pictures(*changes: dict[str, Any]) -> pd.DataFrame:
    """One row per dict; unless it says so, a picture shares nothing with the others."""
    rows = [
        {"image_id": f"图{n}.png", "positive_id": f"图{n}.png", "group": None, "sha256": f"sum {n}"}
        | {"dhash": f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}", "red": 10, "green": 20, "blue": 30, "blank": False}
        | change
        for n, change in enumerate(changes)
    ]
    return pd.DataFrame(rows)


def captions(**by_picture: str) -> pd.DataFrame:
    rows = [(f"图{name[1:]}.png", f"句{name}", normalise(caption)) for name, caption in by_picture.items()]
    return pd.DataFrame(rows, columns=["image_id", "text_id", "normalised"])


def test_the_source_knows_its_groups() -> None:
    frame = pictures({"group": "猫"}, {"group": "狗"}, {"group": "猫"})
    assert split_groups(frame, captions(p0=LONG, p1=LONG, p2=LONG)) == ["猫", "狗", "猫"]


def test_groups_of_the_source_that_hold_equal_bytes_are_one() -> None:
    frame = pictures({"group": "厨师", "sha256": "same"}, {"group": "人"}, {"group": "男厨师", "sha256": "same"})
    assert split_groups(frame, captions()) == ["厨师", "人", "厨师"]


@pytest.mark.parametrize(
    "same",
    [{"sha256": "same"}, {"positive_id": "原图.png"}, {"dhash": "00ff00ff00ff00ff"}],
)
def test_equal_pictures_are_one_group(same: dict[str, Any]) -> None:
    assert split_groups(pictures(same, {}, same), captions()) == ["图0.png", "图1.png", "图0.png"]


def test_an_equal_hash_of_another_colour_is_another_picture() -> None:
    heart = {"dhash": "00c6ffff7e3c1800"}
    frame = pictures(heart | {"red": 200}, heart | {"red": 150}, heart | {"red": 157})
    assert split_groups(frame, captions()) == ["图0.png", "图1.png", "图1.png"]


@pytest.mark.parametrize(
    ("one", "other", "joined"),
    [
        (LONG, LONG, True),
        ("窗台上的 ＣＡＴ 在睡觉", "窗台上的 cat 在睡觉", True),
        ("一只白猫在窗台上", "一只白猫在窗台上", True),
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
    frame = pictures({"sha256": "same"}, {"sha256": "same", "dhash": "ff0f"}, {"dhash": "ff0d"}, {}, {})
    carried = captions(p2=LONG, p3=LONG)
    groups = dict(zip(frame["image_id"], split_groups(frame, carried), strict=True))
    assert list(groups.values()) == ["图0.png"] * 4 + ["图4.png"]
    turned = frame[::-1].reset_index(drop=True)
    assert dict(zip(turned["image_id"], split_groups(turned, carried[::-1]), strict=True)) == groups


def test_a_picture_without_a_group_joins_the_group_of_its_copy() -> None:
    frame = pictures({"group": "猫"}, {"sha256": "sum 0"}, {})
    assert split_groups(frame, captions()) == ["猫", "猫", "图2.png"]


def test_groups_of_the_source_are_never_joined_by_a_guess() -> None:
    """One unknown group joins what is near to it, and nothing else."""
    near = [{"dhash": f"00ff00ff00ff{bits}"} for bits in ("0000", "0007", "003f", "01ff", "01ff")]
    frame = pictures(*(look | {"group": name} for look, name in zip(near, "甲乙丙丁戊", strict=True)), {}, {})
    frame.loc[6, "group"] = "己"
    carried = captions(p0=LONG, p1=LONG, p5=LONG[1:], p6=LONG[1:])
    assert split_groups(frame, carried) == [*"甲乙丙丁戊己己"]
    frame.loc[0, "group"] = None
    assert split_groups(frame, carried) == [*"乙乙丙丁戊己己"]
    frame.loc[1, "group"] = None
    assert split_groups(frame, carried) == [*"丙丙丙丁戊己己"]
    frame.loc[3, "group"] = None
    assert split_groups(frame, carried) == [*"丙丙丙丙丙己己"], "chains through an unknown one"


@pytest.mark.parametrize(("carriers", "groups"), [(2, 1), (20, 1), (21, 21)])
def test_pictures_of_one_text_are_one_group(carriers: int, groups: int) -> None:
    frame = pictures(*[{}] * carriers)
    carried = captions(**{f"p{n}": "山水画" for n in range(carriers)}).assign(text_id="句0")
    assert len(set(split_groups(frame, carried))) == groups
    known = frame.assign(group=[f"概念{n}" for n in range(carriers)])
    assert len(set(split_groups(known, carried))) == carriers, "the source knows better"


def test_no_pictures_no_groups() -> None:
    assert split_groups(pictures({})[:0], captions()) == []


def test_assign_deals_the_groups_out_by_the_hash_of_their_name() -> None:
    names = [f"概念{n}" for n in range(25)]
    dealt = assign(names * 3, Split(seed=7, valid=0.1, test=0.2, official=True))
    ordered = sorted(names, key=lambda name: hashlib.sha256(f"7:{name}".encode()).hexdigest())
    assert [dealt[name] for name in ordered] == ["test"] * 5 + ["valid"] * 2 + ["train"] * 18
    assert assign(reversed(names), Split(seed=7, valid=0.1, test=0.2, official=True)) == dealt
    assert assign(names, Split(seed=8, valid=0.1, test=0.2, official=True)) != dealt


def test_another_group_leaves_most_where_they_are() -> None:
    names = [f"概念{n}" for n in range(100)]
    params = Split(seed=0, valid=0.1, test=0.2, official=True)
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
        assign("甲乙丙丁戊", Split(seed=0, valid=valid, test=test, official=True))


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
    assert merged.texts.select(["text_id", "caption"]).to_pylist() == [
        {"text_id": "t0", "caption": "水果"},
        {"text_id": "t1", "caption": "桃子"},
        {"text_id": "t3", "caption": "汽车"},
    ]
    assert [tuple(row.values())[:3] for row in merged.pairs.to_pylist()] == [
        ("p0", "桃.png", "t0"),
        ("p1", "桃.png", "t1"),
        ("p2", "梨.png", "t0"),
        ("p3", "车.png", "t3"),
    ]
    assert merged.pairs.schema == pairs.PAIRS


def test_a_denied_caption_that_fits_too_fits(fruits: pairs.PairSet) -> None:
    labels = [0, 1, 0, 1, 1]  # t2 on the pear is denied and equals t4, which fits; t0 on the peach is denied alone
    place = fruits.pairs.schema.get_field_index("label")
    denied = fruits.pairs.set_column(place, pairs.PAIRS.field(place), pa.array(labels, pa.int8()))
    merged = merge_captions(replace(fruits, pairs=denied), {f"t{n}": c for n, c in enumerate("果桃果车果")})
    assert [(row["pair_id"], row["text_id"], row["label"]) for row in merged.pairs.to_pylist()] == [
        ("p0", "t0", 0),
        ("p1", "t1", 1),
        ("p3", "t3", 1),
        ("p4", "t0", 1),
    ]


def test_the_group_column_is_filled(fruits: pairs.PairSet) -> None:
    filled = with_groups(fruits.images, ["甲", "甲", "乙"])
    assert filled.schema == pairs.IMAGES
    assert filled["group"].to_pylist() == ["甲", "甲", "乙"]


def test_pictures_of_equal_bytes_and_their_siblings_have_one_original() -> None:
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


def test_leaks_prevented_are_copies_that_would_be_dealt_apart() -> None:
    twins = [{"sha256": "same"}, {"sha256": "same"}, {"dhash": "ff0f"}, {"dhash": "ff0d"}]
    frame = pictures(*twins, *[{}] * 8)
    frame["copies"] = copies(frame)
    frame["dealt"] = "train"
    alone = assign(frame["image_id"], PARAMS)
    parted = [alone[f"图{n}.png"] != alone[f"图{n + 1}.png"] for n in (0, 2)]
    assert leaks_prevented(frame, PARAMS) == 2 * sum(parted)
    by_seed = {leaks_prevented(frame, PARAMS.model_copy(update={"seed": seed})) for seed in range(60)}
    assert by_seed == {0, 2, 4}
    frame["dealt"] = ["train", "test", *frame["dealt"][2:]]  # as by groups of the source that part the first two
    assert leaks_prevented(frame, PARAMS) == 2 * parted[1]
