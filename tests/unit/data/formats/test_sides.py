"""Left and right: 927 real phrases (sides.tsv: decision, caption), and what becomes of their words."""

import pickle
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tuwen.data.formats import sides

PHRASES = [line.split("\t") for line in Path(__file__).with_name("sides.tsv").read_text("utf-8").splitlines()]


def test_the_phrases_are_many_and_balanced() -> None:
    counts = Counter(decision for decision, _ in PHRASES)
    assert len({caption for _, caption in PHRASES}) == len(PHRASES) > 300
    assert min(counts[name] for name in ("swap", "keep")) > 100
    assert counts["free"] > 50


@pytest.mark.parametrize("decision", sides.MIRRORINGS)
def test_each_phrase_is_decided_right(decision: str) -> None:
    wrong = {
        caption: got for due, caption in PHRASES if (got := sides.judge_mirroring(caption)) != due == decision
    }
    assert not wrong


def test_a_phrase_that_is_mirrored_says_the_opposite_and_twice_mirrored_the_same() -> None:
    for decision, caption in PHRASES:
        mirrored = sides.swap_sides(caption)
        assert (mirrored != caption) == (decision == "swap")
        if decision == "swap":
            assert sides.judge_mirroring(mirrored) == "swap", mirrored
            assert sides.swap_sides(mirrored) == caption


@pytest.mark.parametrize(
    ("caption", "mirrored"),
    [
        ("小狗坐在猫的左边", "小狗坐在猫的右边"),
        ("右手拿着杯子，左手拿着书", "左手拿着杯子，右手拿着书"),
        ("五十个人左右围在桌子左侧", "五十个人左右围在桌子右侧"),
        ("他左顾右盼", "他左顾右盼"),
        ("一只大熊猫", "一只大熊猫"),
        ("左邻右舍站在右侧", "左邻右舍站在左侧"),
        ("Bride on the LEFT, groom on the right", "Bride on the RIGHT, groom on the left"),
        ("Left hand raised", "Right hand raised"),
        ("From left to right: Tom, Jerry", "From right to left: Tom, Jerry"),
        ("左宗棠站在右侧", "左宗棠站在右侧"),
        ("copyright leftover", "copyright leftover"),
        ("足球飞向球门左上角", "足球飞向球门右上角"),
        ("从左往右数第三只小鸭子", "从右往左数第三只小鸭子"),
        ("摆在电脑右侧的仙人掌", "摆在电脑左侧的仙人掌"),
        ("左边是香肠，右边是煎蛋", "右边是香肠，左边是煎蛋"),
    ],
)
def test_left_and_right_change_places_but_not_where_both_are_meant(caption: str, mirrored: str) -> None:
    assert sides.swap_sides(caption) == mirrored
    assert sides.swap_sides(mirrored) == caption


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("左侧是雪山，右侧是湖泊", {"left", "right"}),
        ("左宗棠站在右侧", {"right"}),
        ("The man on the Left", {"left"}),
        ("三十岁左右的座右铭", set()),
    ],
)
def test_only_places_are_sides(caption: str, named: set[str]) -> None:
    assert sides.list_sides(caption) == named
    assert sides.has_side_word(caption) == bool(named)


def test_the_strictest_caption_decides_for_its_picture() -> None:
    assert sides.choose_strictest([]) == "free"
    assert sides.choose_strictest(["一只猫", "左边的猫"]) == "swap"
    assert sides.choose_strictest(["左边的猫", "左丘明", "一只猫"]) == "keep"


@pytest.mark.parametrize(
    "caption",
    ["", "左", "右 ", "左\n右", "　左边　", "👈🏻左", "左" * 300, "左边" * 10**6, "right " * 50, "\ud83d左边"[1:]],
)
def test_no_caption_breaks_it(caption: str) -> None:
    assert sides.judge_mirroring(caption) in sides.MIRRORINGS
    assert len(sides.swap_sides(caption)) == len(caption)


def test_arrow_finds_every_caption_that_is_not_free() -> None:
    found = pc.match_substring_regex(pa.array([caption for _, caption in PHRASES]), sides.CANDIDATE).to_pylist()
    assert all(candidate for (decision, _), candidate in zip(PHRASES, found, strict=True) if decision != "free")


def test_it_travels_to_a_worker() -> None:
    assert pickle.loads(pickle.dumps(sides.judge_mirroring))("左边") == "swap"
