"""What the tests of MLflow runs begin with."""

from pathlib import Path

import pytest


@pytest.fixture
def project(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The database of an MLflow store without runs; the test's folder is the current one."""
    monkeypatch.chdir(tmp_path)
    return store
