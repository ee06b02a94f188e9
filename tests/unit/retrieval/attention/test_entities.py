"""Nouns of captions as people write them."""

import pytest

from tuwen.retrieval.attention.entities import list_entities


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("红色的圆盘和蓝色的方块", ["红色", "圆盘", "蓝色", "方块"]),
        ("大熊猫坐在竹林里吃竹子", ["大熊猫", "竹林", "竹子"]),
        ("海边的日落", ["海边", "日落"]),  # a place is a noun too
        ("跑得飞快", []),
        ("", []),
        ("<人名>在奥运会上获得金牌", ["<人名>", "奥运会", "金牌"]),
        ("草莓 on a table", ["草莓"]),
    ],
)
def test_the_nouns_of_a_caption_in_their_order(caption: str, words: list[str]) -> None:
    entities = list_entities(caption)
    assert [entity.word for entity in entities] == words
    assert all(caption[start:end] == entity.word for entity in entities for start, end in entity.spans)


def test_a_word_that_stands_twice_is_one_entity() -> None:
    fruit, cake = list_entities("草莓蛋糕旁边放着草莓")
    assert (fruit.word, fruit.spans) == ("草莓", ((0, 2), (8, 10)))
    assert (cake.word, cake.spans) == ("蛋糕", ((2, 4),))
