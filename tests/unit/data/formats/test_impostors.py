from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.data.formats.impostors import refuse_impostor


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no vocabulary: the file is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 109540\n",
            "Git LFS pointer to a file of 109,540",
        ),
        (b"\xef\xbb\xbf\r\n<!DOCTYPE HTML><html>", "it is a web page; fetch the raw file"),
        ('<html lang="zh"><title>登录</title>'.encode(), "it is a web page; fetch the raw file"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "the XML message of a file server"),
        (b'{"error":"Invalid username or password."}', "the error message of a server"),
        (b"\x1f\x8b\x08\x00", "a gzip archive; unpack it"),
    ],
)
def test_what_stands_in_place_of_a_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "词表.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"词表\.txt: no vocabulary: .*{message}|{message}"):
        refuse_impostor(tmp_path / "词表.txt", "vocabulary")


@pytest.mark.parametrize("content", [b"[PAD]\n", b"PK\x03\x04", b"{}", "图文".encode(), b"version 2\n"])
def test_a_file_passes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    refuse_impostor(tmp_path / "file", "vocabulary")
