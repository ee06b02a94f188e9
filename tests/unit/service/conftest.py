"""One project for the tests of the index and the service: to embed it takes longer than most of them."""

from pathlib import Path

import pytest

from tests.support.search_project import build_index, build_search_project


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a re-ranker and its index; not to be changed."""
    root = build_search_project(tmp_path_factory.mktemp("built"))
    build_index(root)
    return root
