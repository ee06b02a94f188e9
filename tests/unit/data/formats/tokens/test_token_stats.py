from pathlib import Path

import pytest

from tests.support.library_models import make_xlm_tokenizer
from tests.support.weights import VOCABULARY
from tuwen.data.formats.text import build_vocabulary, load_tokenizer, make_tokenizer
from tuwen.data.formats.tokens import token_stats
from tuwen.data.formats.tokens.token_stats import list_losses, measure_tokens

SHOP = [
    "保温杯５００毫升",
    "保温杯７５０毫升",
    "一只猫",
    "红色羽绒服女短款冬季加厚",
    "红色羽绒服女短款冬季加厚修身",
]


def test_a_vocabulary_of_ours_loses_only_what_is_cut() -> None:
    measured = measure_tokens(make_tokenizer(build_vocabulary(SHOP[:1])), [*SHOP, SHOP[0]], 12)
    assert (measured["captions"], measured["unk_share"]) == (5, 0.0)
    assert (measured["cut_share"], measured["equal_share"]) == (0.4, 0.4)
    assert measured["examples"] == {
        "unk_share": [],
        "cut_share": SHOP[3:],
        "equal_share": ["红色羽绒服女短款冬季加厚 = 红色羽绒服女短款冬季加厚修身"],
    }
    assert measure_tokens(make_tokenizer(build_vocabulary(SHOP)), SHOP, 52)["equal_share"] == 0.0


def test_a_vocabulary_that_lacks_words_makes_captions_equal_and_that_is_told() -> None:
    published = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"保温杯毫升一只猫红色羽绒服女短款冬季加厚修身"]
    measured = measure_tokens(make_tokenizer(published), SHOP, 52)
    assert measured["unk_share"] == pytest.approx(2 / 41, abs=1e-6)
    assert measured["equal_share"] == 0.4
    assert measured["examples"]["unk_share"] == ["５００", "７５０"]
    assert measured["examples"]["equal_share"] == ["保温杯５００毫升 = 保温杯７５０毫升"]
    sound = measure_tokens(make_tokenizer(published), ["一只猫"], 52)
    unknown, equal = list_losses({"train": measured, "valid": sound})
    assert unknown.startswith("train: 4.9 % of the words are unknown to the vocabulary")
    assert unknown.endswith("such as ５００; ７５０")
    assert equal.startswith("train: 40.0 % of the captions are equal to another one for the model")
    assert equal.endswith("such as 保温杯５００毫升 = 保温杯７５０毫升")


def test_captions_that_differ_in_form_alone_are_not_counted() -> None:
    captions = ["Ｎｉｋｅ 跑鞋", "nike 跑鞋", "红色\u200b裙子", "红色裙子"]
    assert measure_tokens(make_tokenizer(build_vocabulary(captions)), captions, 52)["equal_share"] == 0.0


def test_traditional_and_simplified_are_one_caption_to_a_model_that_reads_them_so() -> None:
    captions = ["龍貓公仔", "龙猫公仔"]
    tokenizer = make_tokenizer(build_vocabulary(captions, simplify=True), simplify=True)
    assert measure_tokens(tokenizer, captions, 52)["equal_share"] == 0.0


def test_a_large_set_is_measured_by_evenly_spread_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_stats, "MEASURED_CAPTIONS", 4)
    monkeypatch.setattr(token_stats, "CHUNK", 3)
    captions = [f"第{number}只猫" for number in range(10)]
    measured = measure_tokens(make_tokenizer(build_vocabulary(captions)), captions, 3)
    assert measured["captions"] == 4
    assert measured["examples"]["cut_share"] == [captions[0], captions[3], captions[6], captions[9]]


def test_no_caption_loses_nothing() -> None:
    assert measure_tokens(make_tokenizer(build_vocabulary([])), [], 52)["unk_share"] == 0.0


def test_the_tokens_of_a_list_are_those_of_the_file() -> None:
    tokens = Path(VOCABULARY).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    listed, read = make_tokenizer(tokens), load_tokenizer(VOCABULARY)
    assert listed(SHOP)["input_ids"] == read(SHOP)["input_ids"]


def test_a_word_with_several_unknown_pieces_counts_once_and_no_share_is_above_one() -> None:
    tokenizer = make_xlm_tokenizer()
    tokenizer.simplify, tokenizer.clean = False, None
    measured = measure_tokens(tokenizer, ["一只大熊猫 紫烟霞", "吃竹子"], 52)
    assert measured["unk_share"] == pytest.approx(1 / 3, abs=1e-6)  # of the words between blanks
