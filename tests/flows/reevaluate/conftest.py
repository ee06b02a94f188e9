"""A repository with three models for the gate to compare, built once, and a copy of it for each test."""

import shutil
from pathlib import Path

import pytest

from tests.support import gate as gate_world
from tests.support.gate import ran
from tests.support.gate_calls import change, check_out, enter


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`main` with the tag `base`, and two other models, all three evaluated: `worse` and `better`."""
    folder = gate_world.build(tmp_path_factory.mktemp("gate") / "repository", noise=2.0)
    for branch, noise in (("worse", "50"), ("better", "0.1")):
        change(folder, branch, "noise.txt", noise, "dvc", "repro", "--quiet")
        check_out(folder, "main")
    ran(folder)
    return folder


@pytest.fixture
def project(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that repository on `main`, where all is up to date; the test's current directory."""
    folder = tmp_path / "repository"
    shutil.copytree(built, folder)
    enter(folder, monkeypatch)
    return folder
