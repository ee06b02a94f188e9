"""The service `search` of docker/compose.yaml as a process: its command, environment and health check."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.compose import Services
from tests.support.search_project import build_index, build_search_project


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)  # not in a folder of pytest's: no other user may enter those
        for name in ("project", "srv/tmp", "srv/tuwen"):
            (folder / name).mkdir(parents=True)
        services = Services(folder, build_search_project(folder / "project", reranked=False))
        build_index(services.project)
        services.give(folder / "srv")
        try:
            services.start_service("search")
            yield services
        finally:
            services.stop()


def test_it_answers_who_has_the_token_from_a_checkout_that_it_cannot_write(services: Services) -> None:
    address, body = f"http://127.0.0.1:{services.ports[8080]}", {"text": "一个红色的圆形", "k": 3}
    assert httpx.post(f"{address}/search", json=body, timeout=60).status_code == 401
    bearer = {"Authorization": f"Bearer {services.secrets['SEARCH_TOKEN']}"}
    found = httpx.post(f"{address}/search", json=body, headers=bearer, timeout=60).json()
    assert len(found["answers"]) == 3
    picture = httpx.get(f"{address}{found['answers'][0]['image']}", headers=bearer, timeout=60)
    assert picture.headers["content-type"] == "image/jpeg"
    assert services.stop_container("search") == []
    assert "POST /search 200" in services.log("search").read_text(encoding="utf-8")
