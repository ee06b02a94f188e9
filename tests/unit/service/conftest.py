"""One project for the tests of the index and the service: to embed it takes longer than most of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.support.search_client import build_client, wait_until_ready
from tests.support.search_project import build_index, build_search_project


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a re-ranker and its index; not to be changed."""
    root = build_search_project(tmp_path_factory.mktemp("built"))
    build_index(root)
    return root


@pytest.fixture(scope="session")
def client(built: Path) -> Iterator[TestClient]:
    """The service over it, ready."""
    with build_client(built) as client:
        wait_until_ready(client)
        yield client
