"""DVC's settings of a checkout in another folder, written and read by DVC itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuwen.core.dvc_settings import copy_dvc_settings
from tuwen.core.errors import UserError


def dvc(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", check=True).stdout.strip()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, a DVC repository with settings in two files; in it, another at `there`."""
    here = tmp_path / "C#项目, it's"
    for place in (here, here / "there"):
        (place / ".dvc").mkdir(parents=True)
        (place / ".dvc/config").write_text(
            "[core]\n    no_scm = true\n['remote \"shared\"']\n    url = ../../store\n", encoding="utf-8"
        )
    monkeypatch.chdir(here)
    return here / "there"


def test_the_cache_of_this_checkout_is_the_others_too(folder: Path) -> None:
    settings = copy_dvc_settings(folder)
    assert settings["cache.dir"] == f"{folder.parent}/.dvc/cache"
    assert dvc("cache", "dir", cwd=folder) == settings["cache.dir"]
    assert str(folder.parent) not in (folder / ".dvc/config.local").read_text(encoding="utf-8")  # it may be moved


def test_a_users_own_settings_hold_there_and_paths_name_the_same_places(folder: Path) -> None:
    local = (
        '[cache]\n    dir = "../../big #1, it\'s"\n    type = copy\n[core]\n    remote = nas\n'
        "['remote \"nas\"']\n    url = ssh://me@nas/store\n    keyfile = ../key\n    password = geheim\n"
    )
    Path(".dvc/config.local").write_text(local, encoding="utf-8")
    copy_dvc_settings(folder)
    big = folder.parents[1] / "big #1, it's"
    assert dvc("cache", "dir", cwd=folder) == str(big)
    shown = dict(line.split("=", 1) for line in dvc("config", "--list", cwd=folder).splitlines())
    assert shown["cache.type"] == "copy"
    assert shown["core.remote"] == "nas"
    assert shown["remote.nas.url"] == "ssh://me@nas/store"
    assert shown["remote.nas.keyfile"] == f"{folder.parent}/key"
    assert shown["remote.shared.url"] == f"{folder.parents[1]}/store"  # not the one beside `there`
    assert os.stat(folder / ".dvc/config.local").st_mode & 0o077 == 0
    Path(".dvc/config.local").unlink()
    assert copy_dvc_settings(folder)["cache.dir"] == f"{folder.parent}/.dvc/cache"  # nothing of before is kept


def test_settings_that_dvc_cannot_read_are_one_message(folder: Path) -> None:
    Path(".dvc/config.local").write_text("[cache]\n    dir = a, b\n    nonsense\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"^dvc config, in .*: ERROR: "):
        copy_dvc_settings(folder)
