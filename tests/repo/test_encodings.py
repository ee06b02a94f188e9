"""Files and the output of programs are UTF-8 by decision: whoever opens a text names its encoding."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.files import modules, text_of

TEXT_READERS = {"read_text", "write_text"}
PROCESSES = {"run", "Popen", "check_output"}


def unnamed_encodings(code: str) -> Iterator[int]:
    """Yield the lines of calls that open a text, or read a program's, by the locale's encoding."""
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        if "encoding" in named or None in named:
            continue
        mode = named.get("mode") or (node.args[1] if name == "open" and len(node.args) > 1 else None)
        binary = isinstance(mode, ast.Constant) and "b" in str(mode.value)
        builtin = isinstance(node.func, ast.Name) and name == "open"
        by_text = name in PROCESSES and ({"text", "universal_newlines"} & named.keys())
        if name in TEXT_READERS or (builtin and not binary) or by_text:
            yield node.lineno


@pytest.mark.parametrize("path", modules("tuwen", "stages", "flows"))
def test_every_text_names_its_encoding(path: str) -> None:
    assert list(unnamed_encodings(text_of(Path(path)))) == []


@pytest.mark.parametrize(
    "code", ["open(p)", "open(p, 'w')", "p.read_text()", "p.write_text(t)", "subprocess.run(c, text=True)"]
)
def test_a_text_by_the_locale_is_found(code: str) -> None:
    assert list(unnamed_encodings(code)) == [1]
