import itertools
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from tuwen.core.errors import UserError
from tuwen.data.formats.json_file import write_json
from tuwen.data.formats.text import build_vocabulary, load_tokenizer, make_tokenizer, tokenize
from tuwen.data.formats.tokens import spelling

SHOP = [
    "保温杯500毫升",
    "促销🔥",
    "ok👍",
    "羽绒服XL码",
    "陕西𰻞𰻞面",
    "ありがとう",
    "①②号",
    "H₂O",
    "한국 김치",
    "café",
]
# what differs to a reader must differ to the model, whether or not the vocabulary was built with it
DIFFERENT = [
    ("保温杯５００毫升", "保温杯７５０毫升"),
    ("羽绒服ＸＬ码", "羽绒服ＸＸＬ码"),
    ("陕西𰻞𰻞面", "陕西𰻞面"),
    ("促销🔥🔥", "促销👍👍"),
    ("促销🔥🔥", "促销🔥🔥🔥"),
    ("ok👍", "ok🔥"),
    ("ありがとう", "ありがどう"),
    ("ガラスのコップ", "カラスのコップ"),
    ("①②", "②①"),
    ("H₂O", "H₃O"),
    ("한국", "한글"),
    ("𠮷野家", "𡈽野家"),
    ("龘", "靐"),
    ("λ2", "λ3"),
    ("Ωmega表", "Ψmega表"),
    ("标志\ue000", "标志\ue001"),
    (
        "🏴\U000e0065\U000e006e\U000e0067\U000e007f",
        "🏴\U000e0073\U000e0063\U000e0074\U000e007f",
    ),  # England, Scotland
    ("🇨🇳", "🇨🇦"),
    ("👍🏻", "👍🏿"),
    ("สีแดง", "สีดำ"),
    ("नमस्ते", "नमस्त"),
    ("\U0001fae9", "\U0001fae8"),  # newer than the tables of the tokenizer's clean_text
    ("iphone14", "iphone 14"),
    ("a" * 150, "a" * 149 + "b"),
    ("🔥" * 120, "🔥" * 121),
]
EQUAL = [
    ("保温杯５００毫升", "保温杯500毫升"),
    ("Ｎｉｋｅ　跑鞋", "nike 跑鞋"),
    ("红色\u200b羽绒服", "红色羽绒服"),
    ("红色\u202e羽绒服\u202c", "红色羽绒服"),
    ("❤️礼物", "❤礼物"),
    ("雨后\x00的\u2028彩虹", "雨后 的 彩虹"),
    ("\ufeff一只猫", "一只猫"),
    ("“双十一”大促", '"双十一"大促'),
    ("：，！？（）", ":,!?()"),
]


def load(folder: Path, captions: list[str], simplify: bool = False) -> Any:
    vocabulary = build_vocabulary(captions, simplify)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    if simplify:
        write_json(folder / "preprocessor.json", {"text": {"simplify": True}})
    return load_tokenizer(folder / "vocab.txt")


def spell(tokenizer: Any, caption: str) -> list[str]:
    """Return the tokens of a caption, without the first and the last."""
    return list(tokenizer([caption]).encodings[0].tokens[1:-1])


@pytest.mark.parametrize("captions", [SHOP, ["一只猫"], []], ids=["shop", "one caption", "none"])
def test_different_captions_are_different_to_the_model_whatever_the_vocabulary_knows(
    tmp_path: Path, captions: list[str]
) -> None:
    tokenizer = load(tmp_path, captions)
    for left, right in DIFFERENT:
        ids = tokenizer([left, right])["input_ids"]
        assert tokenizer.unk_token_id not in [*ids[0], *ids[1]], (left, right)
        assert ids[0] != ids[1], (left, right)
    for left, right in EQUAL:
        ids = tokenizer([left, right])["input_ids"]
        assert ids[0] == ids[1], (left, right)


def test_what_the_vocabulary_was_built_with_needs_no_bytes(tmp_path: Path) -> None:
    captions = list(dict.fromkeys([*SHOP, *itertools.chain(*DIFFERENT), *itertools.chain(*EQUAL)]))
    tokenizer = load(tmp_path, captions)
    for encoding in tokenizer(captions).encodings:
        assert not {*spelling.BYTES} & {*encoding.tokens}
    assert spell(tokenizer, "保温杯５００毫升XL") == [
        "保",
        "温",
        "杯",
        "5",
        "##0",
        "##0",
        "毫",
        "升",
        "x",
        "##l",
    ]
    assert spell(tokenizer, "陕西𰻞𰻞面🔥🔥") == ["陕", "西", "𰻞", "##𰻞", "面", "🔥", "##🔥"]


def test_a_character_that_the_vocabulary_lacks_is_its_bytes(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, ["一只猫"])
    assert spell(tokenizer, "龘猫") == ["<0xE9>", "<0xBE>", "<0x98>", "猫"]
    assert spell(tokenizer, "xΩ5") == ["x", "<0xCF>", "<0x89>", "5"]
    assert "[UNK]" not in spell(tokenizer, "[UNK]")
    assert spell(tokenizer, "[MASK]") == spell(tokenizer, "[mask]")
    assert spell(tokenizer, "<0xE9>") == ["<", "0", "##x", "##e", "##9", ">"]  # a caption cannot forge one


def test_any_text_at_all_is_spelled(tmp_path: Path) -> None:
    tokenizer, draw = load(tmp_path, SHOP), random.Random(0)
    codes = [code for code in range(0x20, 0x110000, 37) if not 0xD800 <= code < 0xE000]
    texts = ["".join(map(chr, draw.choices(codes, k=40))) for _ in range(500)]
    assert all(tokenizer.unk_token_id not in ids for ids in tokenizer(texts)["input_ids"])


def test_a_vocabulary_grows_by_bytes_and_ascii_alone(tmp_path: Path) -> None:
    captions = ["一只大熊猫在吃竹子", "男生戴着Nike帽子，左手拿着2个苹果"]
    characters = {c for caption in captions for c in caption.lower()}
    vocabulary = build_vocabulary(captions)
    assert len(vocabulary) == len(set(vocabulary))
    # 68 in ASCII without capitals and the blank, 36 of them continue a word
    assert (
        len(vocabulary) == 5 + len(spelling.BYTES) + 68 + 36 + len([c for c in characters if not c.isascii()]) - 1
    )
    assert "，" not in vocabulary  # it is read as its half-width form


def test_a_vocabulary_without_the_bytes_is_read_as_bert_does(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n猫\n５\n5\n##0\n", encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    assert spell(tokenizer, "猫５50狗龘") == ["猫", "[UNK]", "[UNK]", "[UNK]"]
    assert spell(tokenizer, "猫 ５ 50") == ["猫", "５", "5", "##0"]


def test_a_vocabulary_without_what_begins_and_ends_a_caption_is_refused() -> None:
    with pytest.raises(UserError, match=r"lacks \[CLS\] and \[SEP\]"):
        make_tokenizer(["[PAD]", "[UNK]", "猫"])


def test_a_tokenizer_goes_to_other_processes(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, SHOP, simplify=True)
    copy = pickle.loads(pickle.dumps(tokenizer))
    for caption in ("龍貓５００🔥龘", "陕西𰻞𰻞面"):
        assert tokenize(copy, [caption], 52)[0].tolist() == tokenize(tokenizer, [caption], 52)[0].tolist()


def test_simplified_and_traditional_are_equal_where_the_model_says_so(tmp_path: Path) -> None:
    twins = [("龍貓公仔", "龙猫公仔"), ("台灣鳳梨酥禮盒", "台湾凤梨酥礼盒"), ("乾隆皇帝與皇后", "乾隆皇帝与皇后")]
    (tmp_path / "plain").mkdir()
    (tmp_path / "simplified").mkdir()
    plain = load(tmp_path / "plain", [one for pair in twins for one in pair])
    simplified = load(tmp_path / "simplified", [traditional for traditional, _ in twins], simplify=True)
    for pair in twins:
        ids, _ = tokenize(plain, pair, 52)
        assert ids[0].tolist() != ids[1].tolist()
        ids, _ = tokenize(simplified, pair, 52)
        assert ids[0].tolist() == ids[1].tolist()
        assert not {*spelling.BYTES} & {*map(simplified.backend_tokenizer.id_to_token, ids[0].tolist())}


def test_simplifying_names_the_package_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    spelling._make_converter.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "opencc", None)
    with pytest.raises(UserError, match="pip install opencc"):
        spelling.simplify_captions(["龍貓"])
