"""Text that was decoded wrongly and saved again is found, and what people write is not taken for it."""

import pytest

from tuwen.data.formats.foreign_text.mangled import find_mangled

SIMPLIFIED = ["一只猫坐在沙发上", "红色连衣裙", "两个人在海边散步", "苹果手机壳", "秋天的公园"]
LONGER = [
    "穿汉服的女孩撑着油纸伞",
    "孩子们在操场上踢足球",
    "山顶的日出和云海",
    "木桌上的一碗牛肉面",
    "一只猫趴在窗台上晒太阳",
]


def mangle(text: str, right: str, wrong: str) -> str:
    """Save in one encoding, open in another; cp1252 as browsers have it, with Latin-1 where it has nothing."""
    data = text.encode(right)
    if wrong != "cp1252":
        return data.decode(wrong, "replace")
    return "".join(bytes([b]).decode("cp1252" if b not in b"\x81\x8d\x8f\x90\x9d" else "latin-1") for b in data)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        *[("utf-8", "cp1252"), ("utf-8", "latin-1"), ("utf-8", "gbk"), ("gbk", "cp1252"), ("utf-8", "cp950")],
        *[(right, wrong) for right in ("utf-8", "gbk") for wrong in ("cp437", "cp850", "mac_roman")],
        *[("utf-8", "cp1250"), ("gbk", "cp1250"), ("utf-8", "cp932")],
        *[(right, wrong) for right in ("utf-8", "gbk") for wrong in ("cp1251", "koi8_r", "cp866", "iso8859_5")],
    ],
)
def test_every_line_that_was_misread_is_found_with_what_was_meant(right: str, wrong: str) -> None:
    lines = [mangle(line, right, wrong) for line in SIMPLIFIED]
    found = find_mangled([*SIMPLIFIED, *lines])
    assert [one.line for one in found] == [5, 6, 7, 8, 9]
    assert all(set(one.meant) <= set(line) for one, line in zip(found, SIMPLIFIED, strict=True))
    assert any(one.meant for one in found) or wrong == "cp950"  # which loses too much


def test_what_was_read_as_half_width_katakana_is_found_but_where_all_of_it_could_be_that() -> None:
    lines = [mangle(line, "gbk", "cp932") for line in SIMPLIFIED]
    assert len(find_mangled([*SIMPLIFIED, *lines])) >= 4


@pytest.mark.parametrize(("right", "wrong"), [("utf-8", "cp949"), ("gbk", "cp949"), ("gbk", "euc_jp")])
def test_lines_that_were_read_as_korean_or_japanese_are_found(right: str, wrong: str) -> None:
    lines = [mangle(line, right, wrong) for line in (*SIMPLIFIED, *LONGER)]
    assert len(find_mangled(lines)) > 1
    assert len(find_mangled([*SIMPLIFIED, *lines[-1:]])) == 1


def test_lines_of_question_marks_alone_are_found() -> None:
    lost = [line.encode("ascii", "replace").decode() for line in SIMPLIFIED]
    assert [one.line for one in find_mangled(lost)] == [0, 1, 2, 3, 4]
    assert find_mangled(["what???", "a cat", "a dog"]) == []


def test_a_whole_text_of_one_chinese_encoding_read_as_another_is_found() -> None:
    traditional = ["一隻貓坐在沙發上", "紅色連衣裙", "兩個人在海邊散步", "蘋果手機殼", "秋天的公園", "臺灣的夜市"]
    assert len(find_mangled([mangle(line, "cp950", "gb18030") for line in traditional])) >= 4


@pytest.mark.parametrize(
    "text",
    [
        "一只锟斤拷",
        "一只\ufffd\ufffd",
        "æµ‹è¯•",
        "²âÊÔ",
        "娴嬭瘯",
        "~{<:Ky2;~}",
        r'{"a": "\u00e6\u00b5\u2039\u00e8\u00af\u2022"}',
        "\x1b$B%F\x1b(B",
        "+TgBT6nMr-",
        "1.jpg,+TgBT6nMrV1B3QA- A4",
    ],
)
def test_known_forms_of_lost_text_are_found(text: str) -> None:
    assert [one.line for one in find_mangled(["一只猫\n", f"{text}\n", "cat\n"])] == [1]


@pytest.mark.parametrize(
    "text",
    [
        "𰻞𰻞面 龘靐齉爩 饕餮 魑魅魍魉",
        "臺灣 鬱金香 麤 冇咗",
        "猫がソファに座っています。アイスクリーム",
        "고양이가 소파에 앉아 있다",
        "Un café près de l'hôtel; naïve, Ærø, ÀÉÈ, Übergröße",
        "кошка на диване, Ελληνικά, العربية, ไทย, हिन्दी",
        "МОСКВА — ГОРОД «ГЕРОЙ» №1, Санкт-Петербург, кошка «на диване»…",
        "ソウル駅前広場 東京国際空港 大阪城公園 フラッシュを焚いているカメラ",
        "서울特別市 大韓民國 삼성電子 갤럭시 스마트폰 케이스",
        "😀👨‍👩‍👧 ①②③ ㎡ ５００毫升 ☆★",
        "半个\ufffd",
        "\ue000\ue001",
        "really???",
        "价格~{优惠}~",
        "艅艎 瘛疭 靚妹 薴烯",
        "1+1=2, C++/Java+Python, a+b+c-d, +8613800138000, wifi+Bluetooth-5.0, iVBORw0KGgo+AAAA/9j+4AAQSkZJRg-",
        "ｱｲｽｸﾘｰﾑ ｶﾞﾝﾀﾞﾑ ﾌﾟﾗﾓﾃﾞﾙ ﾊﾟｿｺﾝ用ｹｰｽ",
        "ｽｰﾊﾟｰｾｰﾙ☆送料無料",
        "╔══════╗ ║ 商品 ║ ├── 目录 ░▒▓█▓▒░",
        "★☆★☆★☆ ♥♥♥♪♪ →→←←↑↓ ☀️🌈🍎",
        "São João, coração, pão; Žluťoučký kůň; Zażółć gęślą jaźń; Árvíztűrő; Tiếng Việt",
        "(╯°□°)╯︵ ┻━┻ ヽ(✿ﾟ▽ﾟ)ノ σ(´∀｀*) (｡･ω･｡)ﾉ♡",
        "½ ¼ ¾ × ÷ ± √ ∞ ∑ ∏ ∫∂∆∏∑ΩΣ £¥€¢ “…” — ‘’ «»",
    ],
)
def test_what_people_write_is_not_taken_for_it(text: str) -> None:
    assert find_mangled([text]) == []


@pytest.mark.parametrize("line", ['7.jpg,"????????7?"', "7.jpg\t????", '{"image": "7.jpg", "title": "?? ?????"}'])
def test_a_cell_of_question_marks_alone_is_found_among_whole_lines(line: str) -> None:
    assert [
        one.line for one in find_mangled([*SIMPLIFIED, f"{line}\n", "7.jpg,什么???\n", "7.jpg,a cat???\n"])
    ] == [5]
