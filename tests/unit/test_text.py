import random

import pytest

from tuwen import text

CAPTIONS = [
    "一只大熊猫在吃竹子",
    "《清明上河图》局部：汴河，虹桥",
    "男生戴着Nike帽子，左手拿着2个苹果",
    "动物、熊、黑白",
]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("ＡＢＣ１２３", "abc123"),
        ("大熊猫\n吃竹子", "大熊猫 吃竹子"),
        ("  红色 的  裙子 ", "红色 的 裙子"),
        ("Ｎｉｋｅ鞋", "nike鞋"),
    ],
)
def test_captions_that_differ_in_form_alone_are_equal(left: str, right: str) -> None:
    assert text.normalise(left) == text.normalise(right)


def test_left_and_right_are_side_words() -> None:
    assert text.has_side_word("坐手动轮椅的人面向右边")
    assert text.has_side_word("左手拿着苹果")
    assert not text.has_side_word("一只大熊猫在吃竹子")


def test_a_list_is_reworded_from_its_own_items_and_a_sentence_stays() -> None:
    kinds = ["shuffle_list", "drop_from_list"]
    seen = {text.vary("动物、熊、黑白", kinds, random.Random(seed)) for seed in range(60)}
    assert len(seen) > 6
    assert all(set(v.split("、")) <= {"动物", "熊", "黑白"} for v in seen)
    assert all(len(set(v.split("、"))) == len(v.split("、")) for v in seen)
    assert text.vary("一只大熊猫在吃竹子", kinds, random.Random(0)) == "一只大熊猫在吃竹子"
    assert text.vary("动物、熊、黑白", [], random.Random(0)) == "动物、熊、黑白"


def test_the_vocabulary_spells_every_caption_without_unknown_tokens(tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(text.build_vocabulary(CAPTIONS)) + "\n", encoding="utf-8")
    tokenizer = text.load_tokenizer(tmp_path / "vocab.txt")
    ids, mask = text.tokenize(tokenizer, CAPTIONS, 52)
    assert ids.shape == mask.shape
    assert tokenizer.unk_token_id not in ids.tolist()[0]
    assert not (ids == tokenizer.unk_token_id).any()
    spelled = tokenizer.convert_ids_to_tokens(ids[3].tolist())
    assert spelled[:8] == ["[CLS]", "动", "物", "、", "熊", "、", "黑", "白"]
    assert mask[3].sum() == 9  # [CLS], seven characters, [SEP]


def test_tokens_are_cut_to_the_limit_that_counts_both_ends(tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(text.build_vocabulary(CAPTIONS)) + "\n", encoding="utf-8")
    tokenizer = text.load_tokenizer(tmp_path / "vocab.txt")
    ids, _ = text.tokenize(tokenizer, CAPTIONS, 6)
    assert ids.shape == (4, 6)
    assert (ids[:, -1] == tokenizer.sep_token_id).all()
