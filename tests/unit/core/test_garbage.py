"""`make gc` in a real git repository with DVC, a second branch, a tag and a preset."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tuwen.core.errors import UserError
from tuwen.core.garbage import collect_garbage
from tuwen.core.worktree import make_worktree

STAGES = "stages: {greet: {cmd: cp params.yaml out, params: [greeting], outs: [out]}}\n"


def call(*command: str, cwd: Path = Path(".")) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def run(greeting: str) -> None:
    Path("params.yaml").write_text(f"greeting: {greeting}\n", encoding="utf-8")
    call("dvc", "repro", "-q")


def commit(message: str) -> None:
    call("git", "add", "--all")
    call("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", message)


def kept() -> set[str]:
    """The greetings whose out is in the cache."""
    texts = [path.read_text(encoding="utf-8") for path in Path(".dvc/cache/files").rglob("*") if path.is_file()]
    return {found[1] for text in texts if (found := re.search(r"greeting: (\w+)", text))}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, which holds 现在 and made 孤儿; a branch, a tag and a preset hold others."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".gitignore": ".worktrees/\n/out\n",
        "dvc.yaml": STAGES,
        "presets/sample.yaml": "greeting: 你好\n",
        "presets/other.yaml": "extends: sample\ngreeting: 预设\n",
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / ".dvc/config", ".dvc/config")
    call("git", "init", "-q", "--initial-branch", "main")
    run("标签")
    commit("first")
    call("git", "tag", "v1")
    call("git", "checkout", "-q", "-b", "side")
    run("分支")
    commit("side")
    call("git", "checkout", "-q", "main")
    call("dvc", "repro", "-q", cwd=make_worktree("other"))
    for greeting in ("孤儿", "现在"):
        run(greeting)
    return tmp_path


def test_an_orphan_goes_what_a_branch_a_tag_or_a_preset_needs_stays_and_so_does_a_cache_of_others(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert kept() == {"标签", "分支", "预设", "孤儿", "现在"}
    collect_garbage()
    assert kept() == {"标签", "分支", "预设", "现在"}
    big = tmp_path_factory.mktemp("big")
    Path(".dvc/config.local").write_text(f"[cache]\n    dir = {big}\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"may hold what others need; .* --projects .worktrees/other OTHER_CHECKOUT"
    ):
        collect_garbage()
