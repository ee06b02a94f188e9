"""The gate called as a pull request calls it, and commits for it to judge."""

import re
from pathlib import Path

import pytest

from flows.reevaluate import main
from tests.support.checkout import ROOT
from tests.support.gate import commit, run


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def change(folder: Path, branch: str, file: str, text: str, *command: str) -> None:
    """Commit on `branch` a change of one file, and what `command` makes of it."""
    run(folder, "git", "checkout", "--quiet", "-B", branch)
    (folder / file).write_text(text, encoding="utf-8")
    if command:
        run(folder, *command)
    commit(folder, branch)


def check_out(folder: Path, branch: str) -> None:
    run(folder, "git", "checkout", "--quiet", branch)
    run(folder, "dvc", "checkout", "--quiet")


def gate(base: str = "base", preset: str = "sample") -> tuple[int, str]:
    """The exit code of `python -m flows.reevaluate`, and the page for the pull request."""
    with pytest.raises(SystemExit) as ended:
        main(base, preset)
    assert isinstance(ended.value.code, int)
    return ended.value.code, Path("runs/reevaluate.md").read_text(encoding="utf-8")


def differences(page: str) -> dict[tuple[str, str], float]:
    """(direction, R@k) -> head less base in points, from the page's table."""
    row = re.compile(r"^\| (.+?) \| \d+ \| (R@\d+) \| [\d.]+ \| [\d.]+ \| \**([+−][\d.]+)\** \[", re.MULTILINE)
    return {(way, k): float(points.replace("−", "-")) for way, k, points in row.findall(page)}
