"""The application of the search service within the test's own process, and what it answers."""

import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tuwen.service.app import build_app
from tuwen.service.live import LiveModel
from tuwen.service.search_metrics import SearchMetrics
from tuwen.service.settings import SearchSettings

READY_SECONDS = 60


def build_client(root: Path, **settings: object) -> TestClient:
    """A client of the service over the project in `root`; to be entered, then waited for."""
    values: dict[str, object] = {"model": root / "models/reranked", "index": root / "index", "data": root / "data"}
    values |= {"rate": 0, "precision": "fp32"}  # scores to five digits on every processor
    chosen = SearchSettings.model_validate({**values, "model": str(values["model"]), **settings})
    metrics = SearchMetrics()
    app = build_app(chosen, LiveModel(chosen, metrics, pytest.fail), metrics)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def wait_until_ready(client: TestClient) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while client.get("/ready").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)  # it is asked as an orchestrator asks


def search(client: TestClient, **body: object) -> dict[str, Any]:
    """What POST /search answers, which must be 200."""
    answer = client.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def list_ids(found: dict[str, Any]) -> list[str]:
    return [answer["id"] for answer in found["answers"]]
