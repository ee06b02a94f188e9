"""make: what it says before it installs anything, and what it hands to what it starts."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.repo.files import text_of
from tests.support.checkout import PYTHONS, ROOT

GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DVC_SITE_CACHE_DIR"}
    environment |= {"GIT_CEILING_DIRECTORIES": str(folder.parent)} | variables
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def unpack(folder: Path) -> Path:
    """The files that `make` looks at, as a ZIP brings them."""
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.mark.parametrize("target", ["run", "pipeline", "serve"])
def test_a_zip_is_told_before_anything_is_installed(target: str, tmp_path: Path) -> None:
    folder = unpack(tmp_path / "tuwen-main")
    done = make(folder, target, PYTHON="false")
    error, _ = done.stderr.splitlines()  # the other is make's own
    assert error.startswith(f"error: {folder} is no git repository with these files (fatal: not a git repository")
    assert error.endswith("clone it with git, or type here: git init && git add . && git commit -m start")
    assert not (folder / ".venv").exists()


def test_the_remedy_for_a_zip_helps_and_so_does_another_users_repository(tmp_path: Path) -> None:
    folder = unpack(tmp_path / 'it\'s a "#", $HOME Ü项目')
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "start"]):
        subprocess.run([*GIT, *command], cwd=folder, check=True)
    assert make(folder, "checkout").returncode == 0
    assert make(folder, "checkout", GIT_DIR="/elsewhere", GIT_INDEX_FILE="none").returncode == 0
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
        os.chown(folder / ".git", 12345, 12345)
        assert make(folder, "checkout").returncode == 0  # DVC reads it; git's own words come where git is needed


@pytest.mark.parametrize("name", ["what?", "a%20b", "a:b"])
def test_a_folder_whose_name_no_address_can_hold_is_refused(name: str, tmp_path: Path) -> None:
    done = make(unpack(tmp_path / name), "run", PYTHON="false")
    assert "give the folder a name without ? % and :" in done.stderr.splitlines()[0]


def test_whatever_the_folder_is_called_tools_keep_their_files_in_it(tmp_path: Path) -> None:
    folder = unpack(tmp_path / 'it\'s a "#", $HOME `x` Ü项目')
    shown = 'shown: ; @printf "%s\\n" "$$DVC_SITE_CACHE_DIR" "$$PATH"'
    site, path = make(folder, "--eval", shown, "shown").stdout.splitlines()
    assert Path(site) == folder / ".dvc/tmp/site"
    assert Path(site).stat().st_mode & 0o777 == 0o700
    assert path.startswith(f"{folder}/.venv/bin:")


def test_makefile_and_metadata_name_the_same_versions() -> None:
    project = tomllib.loads(text_of(Path("pyproject.toml")))["project"]
    low, high = PYTHONS[0], PYTHONS[-1]
    after = f"3.{int(high.partition('.')[2]) + 1}"
    assert project["requires-python"] == f">={low},<{after}"
    limits = re.search(r"\((3, \d+)\) <= sys\.version_info\[:2\] <= \((3, \d+)\)", text_of(Path("Makefile")))
    assert limits
    assert [pair.replace(", ", ".") for pair in limits.groups()] == [low, high]
    names = re.search(r"names=\((python3\.[^)]+)\); \\", text_of(Path("Makefile")))
    assert names
    assert names[1].split() == [f"python{version}" for version in reversed(PYTHONS)] + ["python3"]


def test_the_newest_python_that_is_suitable_is_taken_by_itself(tmp_path: Path) -> None:
    folder = repository(tmp_path)
    offer(tmp_path, {"python3.14": False, "python3.13": True, "python3.12": True, "python3": True})
    done = make(folder, ".venv/ready", PATH=f"{tmp_path / 'bin'}", PYTHON="")
    assert "python3.13 -I -m venv .venv" in done.stderr  # as bash -x writes it
    assert "python3.12" not in done.stderr
    named = make(folder, ".venv/ready", PATH=f"{tmp_path / 'bin'}", PYTHON=str(tmp_path / "bin/python3.12"))
    assert f"{tmp_path}/bin/python3.12 -I -m venv .venv" in named.stderr


@pytest.mark.parametrize("python", ["", "python3.10", "/no such/python"])
def test_an_unsupported_python_is_one_clear_line(python: str, tmp_path: Path) -> None:
    folder = repository(tmp_path)
    offer(tmp_path, {"python3.14": False, "python3": False, "python3.10": False})
    done = make(folder, ".venv/ready", PATH=f"{tmp_path / 'bin'}", PYTHON=python)
    error, _ = done.stderr.splitlines()  # the other is make's own
    assert error.startswith("error: no Python 3.11 to 3.14 that has venv and ensurepip")
    assert (python or "python3.14") in error
    assert "python3-venv" in error
    assert not (folder / ".venv").exists()


def repository(tmp_path: Path) -> Path:
    folder = unpack(tmp_path / "checkout")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "start"]):
        subprocess.run([*GIT, *command], cwd=folder, check=True)
    return folder


def offer(tmp_path: Path, pythons: dict[str, bool]) -> None:
    """Fill a PATH with what `make` calls and Pythons that end with 9; name -> whether it is suitable."""
    (tmp_path / "bin").mkdir()
    for name in ("bash", "env", "git", "make", "mkdir", "touch"):
        found = shutil.which(name)
        assert found
        (tmp_path / "bin" / name).symlink_to(found)
    for name, suitable in pythons.items():
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/sh\n[ "$2" = -c ] && exit {int(not suitable)}\nexit 9\n')
        path.chmod(0o755)
