"""The folder in which a preset runs, in a real git repository with DVC."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.core.worktree import make_worktree

PIPELINE = """\
stages:
  greet:
    cmd: mkdir -p out && cp params.yaml out/params.yaml
    params: [greeting, lr]
    outs: [out]
"""
CONTEST = """\
# Composed from presets/contest.yaml, which extends sample. Each comment names the preset that sets the value.
greeting: 您好  # contest
lr: 1e-05     # sample
"""


def call(*command: str, cwd: Path) -> str:
    """Run a command to its good end; its output."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def commit(root: Path, message: str) -> str:
    call("git", "add", "--all", cwd=root)
    call("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", message, cwd=root)
    return call("git", "rev-parse", "HEAD", cwd=root)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a git and DVC repository with two presets, committed."""
    root = tmp_path / "repository"
    files = {
        ".dvc/config": "[core]\n    analytics = false\n    autostage = true\n",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".gitignore": ".worktrees/\n/out/\n",
        ".dvcignore": ".worktrees/\n",
        "params.yaml": "greeting: 你好\nlr: 1.0e-5\n",
        "presets/sample.yaml": "greeting: 你好\nlr: 1.0e-5\n",
        "presets/contest.yaml": "extends: sample\ngreeting: 您好\n",
        "dvc.yaml": PIPELINE,
        "code.py": "first = 1\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    call("git", "init", "-q", cwd=root)
    commit(root, "first")
    monkeypatch.chdir(root)
    return root


@pytest.mark.parametrize("preset", ["", "sample"])
def test_the_active_preset_runs_here(project: Path, preset: str) -> None:
    assert make_worktree(preset) == Path(".")
    assert not (project / ".worktrees").exists()


def test_an_unknown_preset_makes_no_worktree(project: Path) -> None:
    with pytest.raises(UserError, match=r"presets/muge\.yaml: no such preset; presets/ has contest, sample"):
        make_worktree("muge")
    assert not (project / ".worktrees").exists()


def test_a_preset_before_the_first_commit_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/contest.yaml").write_text("greeting: 您好\n", encoding="utf-8")
    call("git", "init", "-q", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="a preset runs on the code of a commit"):
        make_worktree("contest")


def test_a_preset_runs_in_a_worktree_with_the_shared_cache(project: Path) -> None:
    call("dvc", "repro", "-q", cwd=project)
    folder = make_worktree("contest")
    assert folder == Path(".worktrees/contest")
    call("dvc", "repro", "-q", cwd=folder)
    assert (folder / "out/params.yaml").read_text(encoding="utf-8") == CONTEST
    assert (project / "params.yaml").read_text(encoding="utf-8") == "greeting: 你好\nlr: 1.0e-5\n"
    assert call("dvc", "status", "--json", cwd=project) == "{}"
    assert not (folder / ".dvc/cache").exists()
    cached = [path for path in (project / ".dvc/cache/files/md5").rglob("*") if path.is_file()]
    assert len(cached) == 4  # two outs, a listing and a file each


def test_dvc_takes_a_composed_number_for_the_number_that_params_yaml_has(project: Path) -> None:
    """`1.0e-5` in params.yaml and `1e-05` in the worktree are one value, so that nothing becomes stale."""
    call("dvc", "repro", "-q", cwd=project)
    commit(project, "dvc.lock")
    folder = make_worktree("contest")
    (folder / "params.yaml").write_text(CONTEST.replace("您好", "你好"), encoding="utf-8")
    assert call("dvc", "params", "diff", "--json", cwd=folder) == "{}"


def test_a_worktree_follows_the_commit_and_keeps_its_lock(project: Path) -> None:
    folder = make_worktree("contest")
    call("dvc", "repro", "-q", cwd=folder)
    lock = (folder / "dvc.lock").read_bytes()
    (project / "code.py").write_text("second = 2\n")
    (project / "presets/sample.yaml").write_text("greeting: 你好\nlr: 2.0e-5\n", encoding="utf-8")
    second = commit(project, "second")
    make_worktree("contest")
    assert call("git", "rev-parse", "HEAD", cwd=folder) == second
    assert (folder / "code.py").read_text() == "second = 2\n"
    assert (folder / "params.yaml").read_text(encoding="utf-8") == CONTEST.replace("1e-05", "2e-05")
    assert (folder / "dvc.lock").read_bytes() == lock
    make_worktree("contest")
    assert (folder / "dvc.lock").read_bytes() == lock


def test_a_worktree_removed_by_hand_is_made_again(project: Path) -> None:
    folder = make_worktree("contest")
    shutil.rmtree(folder)
    make_worktree("contest")
    assert (folder / "dvc.yaml").is_file()


ODD = 'it\'s a "#1", %(x)s $HOME Ü项目'


def test_neither_the_name_of_the_folder_nor_a_move_nor_a_copy_matters(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cache, inputs, lock and outs are those of the checkout that is asked, wherever it lies."""
    (project / "inputs").mkdir()
    (project / "inputs/数据.txt").touch()
    (project / ".git/hooks/post-checkout").write_text("#!/bin/sh\necho refused >&2; exit 1\n")
    (project / ".git/hooks/post-checkout").chmod(0o755)
    folder = make_worktree("contest")
    (folder / "dvc.lock").write_text("ran: here\n")
    (folder / "out").mkdir()
    (folder / "out/model").touch()
    moved, copied = project.with_name(ODD), project.with_name("copy")
    project.rename(moved)
    shutil.copytree(moved, copied, symlinks=True)
    for place in (moved, copied):
        monkeypatch.chdir(place)
        capsys.readouterr()
        make_worktree("contest")
        assert f"DVC's cache {place}/.dvc/cache; " in capsys.readouterr().err
        assert call("dvc", "cache", "dir", cwd=folder.absolute()) == f"{place}/.dvc/cache"
        common = Path(call("git", "rev-parse", "--git-common-dir", cwd=folder.absolute()))
        assert common.resolve() == (place / ".git").resolve()
        assert (folder / "dvc.lock").read_text() == "ran: here\n"
        assert (folder / "out/model").exists()
        assert (folder / "inputs/数据.txt").resolve().is_relative_to(place)
        assert sorted(path.name for path in folder.parent.iterdir()) == ["contest"]


def test_a_worktree_runs_the_code_of_its_commit_or_says_that_it_does_not(project: Path) -> None:
    (project / "tuwen").mkdir()
    (project / "tuwen/loss.py").write_text("first = 1\n")
    commit(project, "code")
    folder = make_worktree("contest")
    (folder / "tuwen/loss.py").write_text("edited = 1\n")
    (folder / "tuwen/new.py").touch()
    with pytest.raises(
        UserError, match=r"its code is not that of commit .*: tuwen/loss.py, tuwen/new.py; work in "
    ):
        make_worktree("contest")


def test_a_project_inside_another_repository_says_so(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = project / "sub"
    shutil.copytree(project / "presets", inside / "presets")
    monkeypatch.chdir(inside)
    with pytest.raises(UserError, match=r"sub lies inside the git repository .*, which is not its own; .* clone"):
        make_worktree("contest")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_checkout_of_another_user_says_what_git_says(project: Path) -> None:
    os.chown(project, 12345, 12345)
    os.chown(project / ".git", 12345, 12345)
    with pytest.raises(UserError, match=r"dubious ownership .* git config --global --add safe.directory"):
        make_worktree("contest")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_checkout_that_cannot_be_written_is_one_message(project: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            os.setresuid(12345, 12345, 12345)
            make_worktree("sample")
        except UserError as error:
            os._exit(0 if "cannot be written; clone or copy the checkout" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
