"""Blocks of Markdown pages, run as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.broken import encode, landscape
from tests.support.checkout import ROOT


def run_snippets(page: str, folder: Path) -> str:
    """Run all Python blocks of `page` as one program in `folder` and return what it printed.

    Each picture that a block names is there: a JPEG, every one of another colour.
    """
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE))
    assert code, "no Python block"
    for number, name in enumerate(sorted(set(re.findall(r'"([\w/]+\.jpg)"', code)))):
        (folder / name).write_bytes(encode(landscape(hills=f"hsl({60 * number}, 80%, 50%)"), "JPEG"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        **{"cwd": folder, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "timeout": 300},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_shell(page: str, heading: str) -> list[str]:
    """Return the shell blocks of a section of a page in docs/, in their order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)
    assert blocks, f"docs/{page}: no shell block below {heading!r}"
    return blocks
