"""Outs that are hard links into DVC's cache: they take no second room, and nobody writes through them unseen."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.cli import main
from dvc.repo import Repo

from flows.edited_outs import refuse_edited_outs
from tests.support.checkout import ROOT
from tuwen.core.errors import UserError
from tuwen.core.linked_outs import copy_linked_outs

WRITE = "from pathlib import Path; Path('out').mkdir(exist_ok=True); "
WRITE += "[Path(p).write_text('一只橘猫' + Path('seed').read_text()[:1]) for p in ('out/cat', 'single')]"
STAGES = """\
stages:
  write:
    cmd: python stages/write.py
    deps: [seed]
    outs: [out, single]
"""


def dvc(*arguments: str) -> None:
    assert main(list(arguments)) == 0


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a DVC repository with this project's link types and a stage that has run."""
    (tmp_path / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", tmp_path / ".dvc/config")
    monkeypatch.chdir(tmp_path)
    dvc("config", "core.no_scm", "true")
    Path("stages").mkdir()
    Path("stages/write.py").write_text(WRITE, encoding="utf-8")
    Path("dvc.yaml").write_text(STAGES, encoding="utf-8")
    Path("seed").write_text("一\n", encoding="utf-8")
    dvc("repro")
    return tmp_path


def links() -> list[int]:
    return [os.stat(path).st_nlink for path in ("out/cat", "single")]


def cached() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in Path(".dvc/cache/files/md5").rglob("*") if path.is_file()]


def test_outs_and_cache_are_one_file_also_when_the_same_is_made_again(project: Path) -> None:
    assert links() == [3, 3]  # both outs have the same content
    dvc("repro", "--force")
    assert links() == [3, 3]
    Path("seed").write_text("一，改\n", encoding="utf-8")  # other code or data, and the same bytes
    dvc("repro")
    assert links() == [3, 3]
    shutil.rmtree("out")
    dvc("checkout")
    assert links() == [3, 3]
    assert {stat_mode(path) for path in ("out/cat", "single")} == {0o444}


def stat_mode(path: str) -> int:
    return os.stat(path).st_mode & 0o777


def test_a_stage_run_by_hand_writes_files_of_its_own(project: Path) -> None:
    before = sorted(cached())
    Path("seed").write_text("二\n", encoding="utf-8")
    copy_linked_outs("python stages/write.py")
    exec(WRITE)
    assert Path("single").read_text(encoding="utf-8") == "一只橘猫二"
    assert sorted(cached()) == before
    assert links() == [1, 1]
    refuse_edited_outs(Path("."))  # DVC sees these by itself
    assert "write" in Repo().status()


def test_an_edit_by_hand_is_told_once_and_the_next_run_makes_the_out_anew(project: Path) -> None:
    refuse_edited_outs(Path("."))
    os.chmod("single", 0o644)
    with open("single", "a", encoding="utf-8") as file:
        file.write("！")
    os.chmod("single", 0o444)  # as an editor does that was told to write all the same
    with pytest.raises(UserError, match="out/cat, single: edited in place, and DVC's cached copy with it"):
        refuse_edited_outs(Path("."))
    assert "一只橘猫一！" not in cached()
    refuse_edited_outs(Path("."))
    dvc("repro")
    assert {Path(path).read_text(encoding="utf-8") for path in ("out/cat", "single")} == {"一只橘猫一"}
    assert Repo().status() == {}


def test_make_looks_for_edits_before_it_runs_dvc(project: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipes = re.findall(r"^(run|data|sweep): \.venv/ready\n(.+?)\n\n", makefile, flags=re.DOTALL | re.MULTILINE)
    assert [name for name, _ in recipes] == ["run", "data", "sweep"]
    for name, recipe in recipes:
        assert "python -m flows.edited_outs" in recipe.partition("dvc ")[0], name
    os.chmod("single", 0o644)
    with open("single", "a", encoding="utf-8") as file:
        file.write("！")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(project / "prefect")}
    command = [sys.executable, "-m", "flows.edited_outs"]
    looked = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=False) for _ in range(2)
    ]
    assert [done.returncode for done in looked] == [1, 0], looked
    assert looked[0].stderr.startswith("error: out/cat, single: edited in place")
    assert "Traceback" not in looked[0].stderr
