import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tuwen.data.formats import text

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
        ("红色\u200b羽绒服\ufeff", "红色羽绒服"),
        ("\u202a红色羽绒服\u202c", "红色羽绒服"),
        ("❤\ufe0f礼物", "❤礼物"),
        ("红色 羽绒服", "红色羽绒服"),
        ("iPhone 手机壳 , 黑", "iPhone手机壳,黑"),
        ("草莓。", "草莓"),
        ("草莓．", "草莓 ！"),
        ("一盒“生巧”", '一盒"生巧"'),
    ],
)
def test_captions_that_differ_in_form_alone_are_equal(left: str, right: str) -> None:
    assert text.normalise(left) == text.normalise(right)


def test_blanks_between_words_of_letters_part_them() -> None:
    assert text.normalise("a red  cap 500 ml") == "a red cap 500 ml"
    assert text.normalise("привет мир") != text.normalise("приветмир")


def test_a_caption_of_marks_alone_is_not_an_empty_one() -> None:
    assert text.normalise("！。") == "!。"
    assert text.normalise("这是草莓？") != text.normalise("这是草莓。")


def test_the_share_of_chinese_is_of_the_visible_characters() -> None:
    assert text.measure_chinese_share("大熊猫 吃\n竹子") == 1.0
    assert text.measure_chinese_share("nike 跑鞋!!") == 0.25
    assert text.measure_chinese_share("𠮷野家") == 1.0
    assert text.measure_chinese_share(" \n") == 0.0


@pytest.mark.parametrize(
    ("paraphrase", "like", "written"),
    [
        # half-width marks, lower case, no full stop at the end: the habits of the contest
        ("一个男人，戴着NIKE帽子。", "男生戴着nike帽子", "一个男人,戴着nike帽子"),
        ("多美啊！ 是吗？", "真美!是不是?", "多美啊!是吗?"),
        ("狗 和 猫 ， 草地", "小狗,小猫,草地", "狗和猫,草地"),
        ("《城市之光》：经典电影【海报】", "电影《城市之光》海报", "《城市之光》:经典电影【海报】"),
        ("第一行\n第二行\x00", "两行文字", "第一行第二行"),
        # full-width marks stay where the caption has them, but not within numbers and addresses
        ("一只狗, 一只猫.", "小狗，小猫。", "一只狗，一只猫。"),
        ("售价3.5元(包邮),10:30开门!", "价格：3.5元（包邮），10点半开门！", "售价3.5元（包邮），10:30开门！"),
        ("见example.com, 共1,000件", "网址是example.com，一千件", "见example.com，共1,000件"),
        ("等等...", "还有很多……，等等", "等等…"),
        # blanks stay where the caption has them, and between Latin words
        ("新款 裙子 夏天", "新款 连衣裙 夏季", "新款 裙子 夏天"),
        ("New Balance 跑步鞋", "New Balance跑鞋", "New Balance跑步鞋"),
        # a mask whose word was translated; two kinds of mask are left to the judge
        ("＜姓名＞和< 名字 >出席", "<人名>与<人名>出席活动", "<人名>和<人名>出席"),
        ("<人>在<地点>", "<人名>在<地名>", "<人>在<地点>"),
        ("", "红灯笼", ""),
        (" 。", "红灯笼", ""),
    ],
)
def test_a_paraphrase_is_written_as_its_caption_is(paraphrase: str, like: str, written: str) -> None:
    assert text.match_caption_form(paraphrase, like) == written
    assert text.match_caption_form(written, like) == written


@pytest.mark.parametrize("caption", CAPTIONS)
def test_a_caption_is_already_in_its_own_form(caption: str) -> None:
    assert text.match_caption_form(caption, caption) == caption


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
    spelled = list(map(tokenizer.backend_tokenizer.id_to_token, ids[3].tolist()))
    assert spelled[:8] == ["[CLS]", "动", "物", "、", "熊", "、", "黑", "白"]
    assert mask[3].sum() == 9  # [CLS], seven characters, [SEP]


def test_tokens_are_cut_to_the_limit_that_counts_both_ends(tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(text.build_vocabulary(CAPTIONS)) + "\n", encoding="utf-8")
    tokenizer = text.load_tokenizer(tmp_path / "vocab.txt")
    ids, _ = text.tokenize(tokenizer, CAPTIONS, 6)
    assert ids.shape == (4, 6)
    assert (ids[:, -1] == text.SPECIAL_TOKENS.index("[SEP]")).all()


def test_threads_that_ask_one_tokenizer_at_once_have_their_own_lengths() -> None:
    tokenizer = text.make_tokenizer(text.build_vocabulary(CAPTIONS))

    def count_tokens(limit: int) -> int:
        return text.tokenize(tokenizer, 64 * CAPTIONS, limit)[0].shape[1]

    limits = 100 * [3, 6, 9, 12]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(count_tokens, limits)) == limits


def test_every_token_stands_where_its_characters_do() -> None:
    caption, fresh = "Ａ级<人名>穿T恤，龘", text.build_vocabulary(["A级人名穿恤"])
    published = [*text.SPECIAL_TOKENS, "级", "<", "人", "名", ">", "穿", "t", "##恤"]
    for vocabulary in (fresh, published):
        tokenizer = text.make_tokenizer(vocabulary)
        places = text.locate_tokens(tokenizer, caption, 52)
        ids, _ = text.tokenize(tokenizer, [caption], 52)
        assert len(places) == ids.shape[1]
        assert places[0] == places[-1] == (0, 0)
        spelled = dict.fromkeys(caption[start:end] for start, end in places[1:-1])  # 龘 is three bytes, or unknown
        assert "".join(spelled) == caption
        assert text.locate_tokens(tokenizer, caption, 5) == [*places[:4], (0, 0)]


def test_the_basic_characters_spell_common_captions() -> None:
    characters = text.list_basic_characters()
    assert len(characters) == len(set(characters)) == 6763 + 682 + 94
    vocabulary = set(text.build_vocabulary([characters]))
    assert set("一只大熊猫坐在竹林里吃竹子,旁边写着《国宝》「2024」。a") <= vocabulary
    assert "##a" in vocabulary
