import json
from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.data.formats.json_file import read_json, read_json_object, write_json

BODY = {"query": "一只大熊猫", "hit@5": 0.9125, "ranks": [3, 1]}


def test_what_is_written_is_read_back_and_keeps_chinese_readable(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, BODY)
    assert path.read_bytes().decode() == (
        '{\n "query": "一只大熊猫",\n "hit@5": 0.9125,\n "ranks": [\n  3,\n  1\n ]\n}\n'
    )
    assert read_json(path) == BODY
    assert read_json_object(path, "fetch it again") == BODY


def test_keys_are_sorted_on_request(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", BODY, sort_keys=True)
    assert list(read_json(tmp_path / "manifest.json")) == ["hit@5", "query", "ranks"]


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(BODY).encode())
    assert read_json(tmp_path / "config.json") == BODY


def test_a_missing_file_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json: missing; run `dvc repro`$"):
        read_json(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"config\.json: missing; fetch the whole folder again$"):
        read_json(tmp_path / "config.json", "fetch the whole folder again")


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": \xff}', b"[" * 100_000])
def test_what_is_no_json_is_named_with_its_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json: not valid JSON \(.*\); remove it and run `dvc repro`$"):
        read_json(path)


@pytest.mark.parametrize(("content", "kind"), [("[1]", "list"), ("null", "NoneType"), ('"猫"', "str")])
def test_another_value_than_an_object_is_named(tmp_path: Path, content: str, kind: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"expected a JSON object, got {kind}; remove it and fetch it again$"):
        read_json_object(path, "fetch it again")


def test_the_error_message_of_a_server_is_no_settings_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"error": "Entry not found"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: .*it is the error message of a server; fetch"):
        read_json_object(tmp_path / "tokenizer_config.json", "fetch it again")
