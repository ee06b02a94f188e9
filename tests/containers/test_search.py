"""The service `search` of docker/compose.yaml in a real engine, over a small index that it only reads."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.containers.conftest import STRANGER, Stack
from tests.support.checkout import ROOT
from tests.support.ports import free_ports
from tests.support.search_project import build_index, build_search_project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with an index, of a user whom the image does not know; made before the stack's time begins."""
    root = build_search_project(tmp_path_factory.mktemp("checkout"), reranked=False)
    build_index(root)
    shutil.copytree(ROOT / "tuwen", root / "tuwen", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["chown", "-R", f"{STRANGER}:{STRANGER}", root], check=True)
    return root


@pytest.fixture(scope="module")
def address(project: Path, stack: Stack) -> Iterator[str]:
    (port,) = free_ports(1)
    mine = {"HOST_CHECKOUT": str(project), "SEARCH_PORT": str(port)}
    try:
        options = ("--detach", "--wait", "--no-build")
        started = stack.attempt("--profile", "search", "up", *options, "search", **mine)
        assert started.returncode == 0, f"{started.stderr[-3000:]}\n{stack.log('search')}"
        yield f"http://127.0.0.1:{port}"
    finally:
        stack.attempt("--profile", "search", "rm", "--stop", "--force", "search", **mine)


def test_it_answers_who_has_the_token_and_starts_no_milvus(stack: Stack, address: str) -> None:
    body = {"text": "一个红色的圆形", "k": 3}
    assert httpx.post(f"{address}/search", json=body, timeout=60).status_code == 401
    bearer = {"Authorization": f"Bearer {stack.values['SEARCH_TOKEN']}"}
    found = httpx.post(f"{address}/search", json=body, headers=bearer, timeout=60).json()
    assert len(found["answers"]) == 3
    picture = httpx.get(f"{address}{found['answers'][0]['image']}", headers=bearer, timeout=60)
    assert picture.headers["content-type"] == "image/jpeg"
    assert not stack.run("--profile", "*", "ps", "--all", "--quiet", "milvus").strip()


def test_it_is_a_user_without_a_name_that_cannot_write_the_checkout(stack: Stack, address: str) -> None:
    execute = ("--profile", "search", "exec", "--no-TTY", "search")
    assert stack.run(*execute, "id", "-u").strip() == str(STRANGER)
    written = stack.attempt(*execute, "touch", "/project/index/x")
    assert "Read-only file system" in written.stderr
    stack.run(*execute, "python", "-c", "import pymilvus")  # for an index whose store is milvus
