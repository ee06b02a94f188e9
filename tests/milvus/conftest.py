"""One Milvus server for all tests here."""

from collections.abc import Iterator

import pytest

from tests.support.milvus_server import run_milvus


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running server."""
    with run_milvus(tmp_path_factory.mktemp("milvus")) as uri:
        yield uri


@pytest.fixture(autouse=True)
def _address(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUWEN_MILVUS_URI", server)
