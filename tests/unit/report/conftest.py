"""A world before its report, and one with it; tests that change something copy it first."""

from pathlib import Path

import pytest

from tests.support import report_inputs


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything before the report, with one hostile caption and one hostile category."""
    return report_inputs.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def made(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_inputs.written(tmp_path_factory.mktemp("made"), world)
