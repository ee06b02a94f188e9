"""A search service for the tests of its page, over a gallery that has something to scroll through."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from tests.support.browser import browser as browser
from tests.support.report_inputs import HOSTILE
from tests.support.reranker_world import add_reranker
from tests.support.search_gallery import write_gallery
from tests.support.search_page import SearchPage
from tests.support.search_process import serving_searches
from tests.support.search_project import build_index, build_search_project

GALLERY = 240


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = build_search_project(tmp_path_factory.mktemp("search"))
    add_reranker(root, layers=2)
    write_gallery(root, GALLERY, HOSTILE)
    build_index(root)
    return root


@pytest.fixture(scope="session")
def address(project: Path) -> Iterator[str]:
    with serving_searches(project) as service:
        yield service.address


@pytest.fixture
def page(browser: Chrome, address: str) -> SearchPage:
    return SearchPage(browser, f"{address}/")
