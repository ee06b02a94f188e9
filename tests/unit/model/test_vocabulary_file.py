from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.data.formats.text import SPECIAL_TOKENS
from tuwen.model.vocabulary_file import check_tokens, digest_tokens, read_token_lines

TOKENS = [*SPECIAL_TOKENS, "图", "文", "\u2028", "##a"]


@pytest.mark.parametrize(
    "encode", [lambda text: text.encode(), lambda text: text.replace("\n", "\r\n").encode("utf-8-sig")]
)
def test_tokens_are_read_whatever_ends_the_lines(tmp_path: Path, encode) -> None:
    (tmp_path / "vocab.txt").write_bytes(encode("\n".join(TOKENS) + "\n"))
    assert read_token_lines(tmp_path / "vocab.txt", "fetch it") == TOKENS


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("gb18030", r"line 7 is not UTF-8 \(byte 0xce\), but may be GBK"), ("utf-16", "but UTF-16")],
)
def test_another_encoding_is_named_with_its_line(tmp_path: Path, encoding: str, message: str) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS), encoding=encoding)
    with pytest.raises(UserError, match=message):
        read_token_lines(tmp_path / "vocab.txt", "fetch it")


@pytest.mark.parametrize(
    ("tokens", "rows", "message"),
    [
        (TOKENS[:-1] + TOKENS[5:6], 9, r"lines 6 and 9 are both '图'"),
        (TOKENS[1:], 9, r"8 tokens without \[PAD\]"),
        ([*TOKENS[5:], *SPECIAL_TOKENS], 9, r"\[PAD\] is line 5, expected the first"),
        (TOKENS, 8, "9 tokens, expected 8"),
        (TOKENS, 200, "9 tokens, expected 200"),
        ([*TOKENS, "\ufffd", "\ufffd\ufffd"], 11, r"2 tokens hold U\+FFFD"),
    ],
)
def test_tokens_that_are_not_those_of_the_table_are_refused(tokens: list[str], rows: int, message: str) -> None:
    with pytest.raises(UserError, match=rf"vocab\.txt: .*{message}.*; take the vocabulary"):
        check_tokens(tokens, Path("vocab.txt"), rows)


def test_a_table_that_is_rounded_up_passes() -> None:
    check_tokens(TOKENS, Path("vocab.txt"), 9)
    check_tokens(TOKENS, Path("vocab.txt"), 128)
    assert digest_tokens(TOKENS) != digest_tokens(sorted(TOKENS))
