import random
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tuwen.data.formats import pairs
from tuwen.data.quality import text_stats
from tuwen.data.quality.text_stats import measure_captions


def make_texts(*captions: str | None) -> pa.Table:
    rows = [{"text_id": f"句-{n}", "caption": caption} for n, caption in enumerate(captions)]
    return pa.Table.from_pylist(rows, pairs.TEXTS)


@pytest.mark.parametrize(
    ("caption", "column", "value"),
    [
        (" 一只白猫趴在窗台上晒太阳。 ", "chars", 13),
        ("一只白猫趴在窗台上晒太阳。", "chinese_share", 12 / 13),
        ("NBA全明星", "chinese_share", 0.5),
        ("NBA全明星", "latin_share", 0.5),
        ("ＮＢＡ é ½ 42", "latin_share", 4 / 7),
        ("good morning", "chinese_share", 0.0),
        (" \u3000\n", "chars", 0),
        ("\u200b\ufeff", "chars", 0),
        ("\u3164\u061c\ufe0f", "chars", 0),
        ("\u200b\ufeff", "latin_share", 0.0),
        (None, "chars", 0),
        (None, "tokens", 2),
        ("", "tokens", 2),
        ("一只猫", "tokens", 5),
        ("NBA全明星赛, 2024年", "tokens", 10),
        ("iPhone\u0301 手机", "tokens", 5),
        ("雨后的\x07彩虹\x00", "control_chars", 2),
        ("第一行\n第二行\t完", "control_chars", 0),
        ("价格\ue5d2\U000f0000元", "private_use_chars", 2),
        ("第一行\n第二行", "newline", True),
        ("只有一行", "newline", False),
        ("男孩右手拿着风筝", "side_word", True),
        ("男孩手里拿着风筝", "side_word", False),
        ("左宗棠画像", "side_word", False),
        ("左宗棠画像", "unmirrored", True),
        ("男孩右手拿着风筝", "unmirrored", False),
        ("墙上的闹钟", "unmirrored", True),
        ("ＡＢＣ 猫", "normalised", "abc猫"),
        ("<人名>与<人名>在<地名>握手", "masks", 3),
        ("＜人名＞出席发布会", "masks", 1),
        ("读《红楼梦》的少女, 5<6>3", "masks", 0),
    ],
)
def test_captions_are_measured(caption: str | None, column: str, value: object) -> None:
    assert measure_captions(make_texts(caption))[column].tolist() == [value]


@pytest.mark.parametrize(
    "caption",
    [
        "游客在湖边散步（图片来源：视觉中国）",
        "资料图：列车驶过长江大桥",
        "点击查看更多精彩图片",
        "版权所有，未经授权不得转载",
        "更多内容请关注微信公众号",
        "详情见 HTTP://example.com/a",
        "责任编辑：王芳",
    ],
)
def test_what_news_sites_write_around_pictures_is_boilerplate(caption: str) -> None:
    assert measure_captions(make_texts(caption))["boilerplate"].tolist() == [True]


@pytest.mark.parametrize(
    "caption", ["雨后的街道上停着一辆红色公交车", "老师点击鼠标播放图片", "他关注着比赛的来源", ""]
)
def test_what_describes_a_picture_is_no_boilerplate(caption: str) -> None:
    assert measure_captions(make_texts(caption))["boilerplate"].tolist() == [False]


def test_duplicates_are_counted_by_the_normalised_form() -> None:
    measured = measure_captions(make_texts("一只猫 A", "一只狗", "一只猫 ａ", "一只猫  a", None, ""))
    assert measured["duplicates"].tolist() == [3, 1, 3, 3, 2, 2]


def test_tokens_are_those_of_bert_whatever_the_characters() -> None:
    draw = random.Random(0)
    usual = "猫和狗，。《》<>!? \t\n\x00\x07\ufffd\u200d\u0301aZé①ﬁ각가한字9-_"
    wild = "".join(chr(code) for code in range(0x20, 0x3200))
    rows = ["".join(draw.choices(draw.choice((usual, wild)), k=draw.randint(0, 40))) for _ in range(3000)]
    bert = Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))  # every word is one token
    bert.normalizer, bert.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    expected = [len(encoding.ids) + 2 for encoding in bert.encode_batch(rows)]
    assert measure_captions(make_texts(*rows))["tokens"].tolist() == expected


def test_a_table_in_parts_is_measured_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Any] = ["一只猫", None, "NBA 全明星", "", "雨后\n彩虹", "a" * 1000, "一只猫"]
    whole = measure_captions(make_texts(*rows))
    monkeypatch.setattr(text_stats, "CAPTIONS_PER_PART", 2)
    assert measure_captions(make_texts(*rows)).equals(whole)


def test_a_table_without_captions_has_all_columns() -> None:
    empty = measure_captions(make_texts())
    assert len(empty) == 0
    assert empty.dtypes.drop(["file", "row"]).equals(
        measure_captions(make_texts("猫")).dtypes.drop(["file", "row"])
    )


def test_the_rows_keep_their_place_and_order() -> None:
    rows = [
        {"text_id": "乙", "caption": "猫", "file": "表.csv", "row": 2},
        {"text_id": "甲", "caption": "狗", "row": 1},
    ]
    measured = measure_captions(pa.Table.from_pylist(rows, pairs.TEXTS))
    assert measured["text_id"].tolist() == ["乙", "甲"]
    assert measured["row"].tolist() == [2, 1]


def test_a_caption_of_ten_megabytes_is_measured() -> None:
    measured = measure_captions(make_texts("猫" * 3_400_000 + "!" * 100))
    assert measured["tokens"].tolist() == [3_400_102]
    assert measured["chinese_share"].iloc[0] == pytest.approx(3_400_000 / 3_400_100)
