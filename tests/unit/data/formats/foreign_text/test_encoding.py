"""Texts in every encoding that people save Chinese in: read as what they are, or refused, never misread."""

from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.data.formats.foreign_text.encoding import decode_text, infer_encoding

SIMPLIFIED = ["一只猫坐在沙发上", "红色连衣裙", "两个人在海边散步", "苹果手机壳", "秋天的公园"]
TRADITIONAL = ["一隻貓坐在沙發上", "紅色連衣裙", "兩個人在海邊散步", "蘋果手機殼", "秋天的公園"]
JAPANESE = ["猫がソファに座っています", "赤いドレス", "海辺を歩く二人"]
KOREAN = ["고양이가 소파에 앉아 있다", "빨간 드레스", "바닷가를 걷는 두 사람"]


def save(path: Path, lines: list[str], encoding: str) -> Path:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    return path


def read(path: Path, encoding: str | None = None) -> str:
    decided = infer_encoding(path, encoding)
    return path.read_bytes()[decided.bom :].decode(decided.name)


@pytest.mark.parametrize(
    ("lines", "encoding"),
    [
        *[(SIMPLIFIED, name) for name in ("utf-8", "utf-8-sig", "gb2312", "gbk", "gb18030", "utf-16")],
        *[(TRADITIONAL, name) for name in ("utf-8", "gbk", "gb18030", "big5", "cp950", "big5hkscs", "utf-16")],
        *[(SIMPLIFIED, name) for name in ("utf-16-le", "utf-16-be", "utf-32")],
        (["液晶显示器"], "gb18030"),
        (["液晶顯示器"], "big5"),
        (["path,title", "p/1.jpg,熊猫", "p/2.jpg,panda"], "gb18030"),
        (["path,title", "p/1.jpg,panda"], "utf-16-le"),
        (["保温杯，５００毫升", "“双面”羊绒大衣", "27英寸×2"], "gb18030"),
        ([f"Φ{n}0mm ×{n} 不锈钢管 ±0.5℃ 304" for n in range(20)], "gb18030"),
        ([f"★M{n} {n}Ω 螺丝→{n}片" for n in range(20)], "gbk"),
        ([f"Φ{n}0mm ×{n} 鋼管 ±0.5℃ 304" for n in range(20)], "big5"),
    ],
)
def test_a_text_is_read_in_the_encoding_that_it_was_saved_in(
    tmp_path: Path, lines: list[str], encoding: str
) -> None:
    path = save(tmp_path / "a.txt", lines, encoding)
    assert read(path).splitlines() == lines
    assert (infer_encoding(path).note == "") == encoding.startswith("utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "猫",
        "𰻞𰻞面 😀👨‍👩‍👧 ①②③ ㎡",
        "猫がソファに座っています",
        "고양이",
        "кошка на диване",
        "un café près de l'hôtel, naïve",
        "25 °C, 3×4 m, “ok”…",
        "A\u00a0B",
        "龘靐齉爩 鬱 麤 饕餮 魑魅魍魉",
        "臺灣 灣仔 囧 冇 咗",
        "İstanbul ðŋə",
        "\ufeff猫",
    ],
)
def test_what_is_utf_8_is_read_as_utf_8(tmp_path: Path, text: str) -> None:
    path = save(tmp_path / "a.txt", [text], "utf-8")
    assert read(path).rstrip() == text.removeprefix("\ufeff")


@pytest.mark.parametrize(
    ("lines", "encoding", "told"),
    [
        (JAPANESE, "cp932", r"it seems to be cp932 \('猫がソファ"),
        (JAPANESE, "euc_jp", r"it seems to be euc_jp \('猫がソファ"),
        (KOREAN, "cp949", r"it seems to be cp949 \('고양이가"),
        (["un café près de l'hôtel", "une forêt brûlée"], "cp1252", "it seems to be cp1252"),
        (["猫"], "gb18030", r"gb18030 \('猫.*'\) and utf-8 \('è.*'\) stay plausible"),
        (["path,title", "1.jpg,熊貓"], "cp950", r"byte 17 is not UTF-8.*cp950 \('熊貓.*stay plausible"),
    ],
)
def test_what_cannot_be_told_or_holds_no_chinese_is_refused_and_a_person_overrules(
    tmp_path: Path, lines: list[str], encoding: str, told: str
) -> None:
    path = save(tmp_path / "a.txt", lines, encoding)
    with pytest.raises(UserError, match=rf"a\.txt: .*{told}"):
        infer_encoding(path)
    assert read(path, encoding).splitlines() == lines
    assert infer_encoding(path, encoding).note == f"read as {encoding}: `encoding` says so"


def test_bytes_that_are_not_of_the_encoding_are_named_by_line_place_and_value(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    good = "".join(f"第{n}号商品图\n" for n in range(200)).encode()
    path.write_bytes(good + b"\xe7\x8c\xff\xe7\x8b\x97\n" + good + b"\xe7\x8c\n")
    place = rf"a\.txt:201: .*byte {len(good)} \(e7 8c ff e7\) is no utf-8, in which the rest is written, lines 201"
    with pytest.raises(UserError, match=rf"{place} \(e7 8c\), 402 \(e7 8c\)"):
        infer_encoding(path)
    chinese = "\n".join(SIMPLIFIED * 3).encode("gb18030")
    path.write_bytes(chinese + b"\n\xff\xff\n" + chinese)
    with pytest.raises(UserError, match=r"a\.txt:16: byte \d+ \(ff ff 0a d2\) is no gb18030"):
        infer_encoding(path)
    path.write_bytes("猫\n狗\n".encode("utf-16") + b"\x00\xd8\n\x00")
    with pytest.raises(UserError, match=r"a\.txt:3: byte 10 \(00 d8 0a 00\) is no utf-16-le"):
        infer_encoding(path)
    path.write_bytes(good)
    with pytest.raises(UserError, match=r"a\.txt:1: byte \d+ .* is no cp950"):
        infer_encoding(path, "cp950")


def test_a_file_of_two_encodings_is_refused_though_it_decodes_as_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\n".join(SIMPLIFIED * 4).encode("gb18030") + "\n红色熊猫\n两人散步\n".encode())
    path.read_text("gb18030")
    with pytest.raises(UserError, match=r"a\.txt:21: gb18030, but lines 21, 22 are utf-8"):
        infer_encoding(path)


def test_a_picture_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 4)
    with pytest.raises(
        UserError, match=r"a\.csv: neither utf-8 \(byte 0\) nor gb18030 .* no encoding makes plausible"
    ):
        infer_encoding(path)


def test_a_caption_alone_is_decoded_where_it_can_be_told() -> None:
    assert decode_text("熊猫".encode("gb18030")) == "熊猫"
    assert decode_text("\ufeff猫".encode()) == "猫"
    assert decode_text(b"") == ""
    with pytest.raises(ValueError, match="stay plausible"):
        decode_text("貓".encode("big5"))
    assert decode_text("貓".encode("big5"), "big5") == "貓"


@pytest.mark.parametrize(
    ("line", "encoding"),
    [
        ("{}L 桶", "gbk"),
        ("①{}片②", "gbk"),
        ("{}κ 表", "gbk"),
        ("β{}", "gbk"),
        ("●{}cm", "big5"),
        ("{}—{} 尺", "gbk"),
    ],
)
def test_a_word_that_stands_in_every_row_is_no_more_evidence_than_in_one(
    tmp_path: Path, line: str, encoding: str
) -> None:
    path = save(tmp_path / "a.txt", [line.format(n, n) for n in range(60)], encoding)
    with pytest.raises(UserError, match="plausible"):
        read(path)
    assert read(path, encoding).startswith(line.format(0, 0))
