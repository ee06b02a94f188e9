"""The routes: what programs and the page get beside answers, and what is refused in words."""

import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.support.search_client import READY_SECONDS, build_client, search, wait_until_ready
from tests.support.search_project import LICENCES
from tuwen.service.app import build_app
from tuwen.service.live import LiveModel
from tuwen.service.search_metrics import SearchMetrics
from tuwen.service.settings import SearchSettings

TOKEN = "geheim, und lang genug"


def test_the_service_says_what_it_is(client: TestClient) -> None:
    about = client.get("/about").json()
    assert about["index"]["images"] == 36
    assert about["rerank"] is True
    assert about["licences"] == LICENCES
    assert about["filters"]["source"] == {"labelled": 24, "art": 12}
    assert (about["max_k"], about["max_body_bytes"]) == (200, 10 << 20)
    assert client.get("/health").json() == {"status": "alive"}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/search", {}, 422, "one of text, image, image_id, text_id, text_vector and image_vector"),
        ("/search", {"text": "猫" * 1001}, 422, "1001 characters, at most 1000"),
        ("/search", {"text": "猫", "k": 201}, 422, "at most 200"),
        ("/search", {"image": "图"}, 422, "not base64"),
        ("/search", {"image": "AAAA"}, 422, "no picture that can be read"),
        ("/search", {"image_id": "没有"}, 404, "no image of this id"),
        ("/search", {"text_id": "没有"}, 404, "no text of this id"),
        ("/search", {"text": "猫", "of": "texts", "rerank": True}, 422, "judges a picture and a text"),
        ("/search", {"text": "猫", "filter": {"colour": ["红"]}}, 422, "filter.colour"),
        ("/attention", {"image_id": "没有", "text": "猫"}, 404, ""),
        ("/embed", {"texts": []}, 422, "texts"),
        ("/reload", {}, 403, "a token is needed to reload"),
        ("/nothing", {}, 404, "nothing at this address"),
        ("/about", {}, 405, "another method"),
    ],
)
def test_what_cannot_be_answered_is_told_in_words(
    client: TestClient, path: str, body: dict[str, object], status: int, words: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b"\xff\xfe", "application/json", 422),
        (b"text=a", "application/x-www-form-urlencoded", 415),
        (b"", "", 415),
        (b"nothing", "multipart/form-data", 422),
        (b"nothing", "multipart/form-data; boundary=x", 422),
    ],
)
def test_a_body_that_is_none_is_refused(client: TestClient, content: bytes, kind: str, status: int) -> None:
    answer = client.post("/search", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"code", "message"}


def test_before_the_model_is_loaded_it_lives_but_is_not_ready(built: Path, tmp_path: Path) -> None:
    faults: list[str] = []
    settings = SearchSettings(index=tmp_path / "index", model=str(built / "models/reranked"))
    metrics = SearchMetrics()
    app = build_app(settings, LiveModel(settings, metrics, faults.append), metrics)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.get("/health").status_code == 200
        answer = client.get("/ready")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        deadline = time.monotonic() + READY_SECONDS
        while not faults:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert "manifest.json: missing; run `dvc repro index`" in faults[0]


def test_prometheus_reads_what_was_measured(client: TestClient) -> None:
    search(client, text="一个红色的圆形")
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    items = {sample.labels["side"]: sample.value for sample in families["tuwen_search_index_items"].samples}
    assert items == {"images": 36, "texts": 84}
    stages = {sample.labels["stage"] for sample in families["tuwen_search_stage_seconds"].samples}
    assert {"encode", "search", "total"} <= stages
    assert "红色" not in client.get("/metrics").text


def test_the_schema_and_its_page_need_no_other_site(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert {"/search", "/embed", "/attention", "/image/{image_id}"} <= set(schema["paths"])
    page = client.get("/docs").text
    assert "POST /search" in page
    assert "http" not in page.replace("http-equiv", "")
    assert 'href="openapi.json"' in page  # a proxy may serve it under any path


def test_a_session_keeps_the_token_from_scripts(built: Path) -> None:
    with build_client(built, token=TOKEN) as client:
        assert client.get("/about").status_code == 401
        assert client.get("/health").status_code == 200
        assert client.post("/session", json={"token": "x"}).status_code == 401
        answer = client.post("/session", json={"token": TOKEN})
        assert answer.status_code == 204
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert TOKEN not in cookie
        wait_until_ready(client)
        assert client.get("/about").status_code == 200


def test_nobody_reads_in_the_log_what_was_asked(
    client: TestClient, built: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tuwen.search")
    search(client, text="一个红色的圆形")
    client.get("/?text=一个红色的圆形")
    assert "POST /search 200" in caplog.text
    assert "红色" not in caplog.text
    with build_client(built, log_queries=True) as talking:
        wait_until_ready(talking)
        search(talking, text="一个红色的圆形")
    assert "红色" in caplog.text
