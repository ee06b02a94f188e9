"""Two pictures where a source looks for them."""

from pathlib import Path

import pytest

from tests.support.tables import CAT, DOG


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    (root / "pictures").mkdir(parents=True)
    (root / "pictures/cat.png").write_bytes(CAT)
    (root / "pictures/dog.png").write_bytes(DOG)
    return root
