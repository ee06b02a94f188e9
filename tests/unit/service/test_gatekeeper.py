"""What every request passes: host, token, rate, room, length, time."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.testclient import TestClient

from tuwen.service.gatekeeper import COOKIE, ClientRates, Gatekeeper, make_cookie
from tuwen.service.search_metrics import SearchMetrics
from tuwen.service.settings import SearchSettings

TOKEN = "geheim, und lang genug"
ASKED = "一只橘猫"


def build_client(host: str = "127.0.0.1", **settings: object) -> TestClient:
    app = FastAPI()
    metrics = SearchMetrics()
    app.add_middleware(Gatekeeper, settings=SearchSettings.model_validate(settings), metrics=metrics)
    app.state.metrics = metrics

    @app.post("/echo")
    async def echo(request: Request) -> JSONResponse:
        return JSONResponse({"bytes": len(await request.body())})

    @app.post("/sleep")
    async def sleep() -> None:
        await asyncio.sleep(30)

    @app.get("/image/{name}")
    async def image(name: str) -> None:
        await asyncio.sleep(30)

    @app.post("/reload")
    async def reload() -> JSONResponse:
        await asyncio.sleep(0.1)
        return JSONResponse({})

    @app.get("/about")
    async def about() -> JSONResponse:
        return JSONResponse({})

    @app.post("/fail")
    async def fail() -> None:
        try:
            raise KeyError(ASKED)
        except KeyError as error:
            raise RuntimeError(f"no such text: {ASKED}") from error

    @app.get("/half")
    async def fail_halfway() -> StreamingResponse:
        async def stream() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError(ASKED)

        return StreamingResponse(stream())

    return TestClient(app, base_url=f"http://{host}", raise_server_exceptions=False)


def test_pages_of_other_sites_cannot_ask_under_their_own_name() -> None:
    assert build_client("127.0.0.1:8080").get("/about").status_code == 200
    assert build_client("localhost").get("/about").status_code == 200
    refused = build_client("evil.example.org").get("/about")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "foreign_host")
    for host in ("search.lan", "search.lan:8080", "other.lan:81"):
        known = build_client(host, hosts="other.lan:81, search.lan").get("/about")
        assert known.status_code == 200
    assert build_client("other.lan", hosts="other.lan:81").get("/about").status_code == 403
    assert build_client(hosts="a.lan,").get("/about", headers={"host": ""}).status_code == 403
    assert build_client("evil.example.org", token=TOKEN).get("/about").status_code == 401


def test_with_a_token_nothing_is_told_without_it() -> None:
    client = build_client(token=TOKEN)
    refused = client.get("/about")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    for wrong in ("Bearer x", f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x"):
        assert client.get("/about", headers={"authorization": wrong}).status_code == 401
    assert client.get("/about", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.get("/about", headers={"host": "x/static/"}).status_code == 401
    client.cookies.set(COOKIE, TOKEN)
    assert client.get("/about").status_code == 401  # the cookie is not the token
    client.cookies.clear()
    client.cookies.set(COOKIE, make_cookie(TOKEN))
    assert client.get("/about").status_code == 200


def test_a_body_over_the_limit_is_refused_however_it_is_sent() -> None:
    client = build_client(max_body_bytes=2000)
    assert client.post("/echo", content=b"x" * 2000).json() == {"bytes": 2000}

    def send() -> Iterator[bytes]:
        yield from (b"x" * 500 for _ in range(5))

    for content in (b"x" * 2001, send()):
        refused = client.post("/echo", content=content)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")


def test_who_asks_too_often_is_told_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("tuwen.service.gatekeeper.monotonic", lambda: now[0])
    client = build_client(rate=2)
    assert [client.post("/echo").status_code for _ in range(5)] == [200] * 4 + [429]
    refused = client.post("/echo")
    assert (refused.headers["retry-after"], refused.json()["error"]["code"]) == ("1", "too_many")
    assert client.get("/about").status_code == 200
    now[0] += 1
    assert [client.post("/echo").status_code for _ in range(3)] == [200, 200, 429]


def test_pictures_and_pages_have_a_rate_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuwen.service.gatekeeper.monotonic", lambda: 100.0)
    client = build_client(rate=1, get_rate=2)
    pages = ["/image/没有/图", "/about", "/docs", "/metrics", "/about"]
    assert [client.get(page).status_code for page in pages] == [404, 200, 200, 404, 429]
    refused = client.get("/image/图01.png")
    assert (refused.headers["retry-after"], refused.json()["error"]["code"]) == ("1", "too_many")
    assert client.get("/ready").status_code == 404
    assert [client.post("/echo").status_code for _ in range(3)] == [200, 200, 429]
    shows_a_page = build_client()  # with 200 pictures, and the next one
    assert {shows_a_page.get("/image/没有/图").status_code for _ in range(402)} == {404}


def test_each_client_has_a_rate_of_its_own() -> None:
    rates = ClientRates(0.001)
    assert rates.count("10.0.0.1") == 0
    assert rates.count("10.0.0.1") > 0
    assert rates.count("10.0.0.2") == 0
    assert ClientRates(0).count("10.0.0.1") == 0


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    client = build_client(timeout_seconds=0.05)
    for refused in (client.post("/sleep"), client.get("/image/图01.png")):
        assert (refused.status_code, refused.json()["error"]["code"]) == (504, "timeout")


def test_a_reload_takes_the_time_that_it_takes() -> None:
    assert build_client(timeout_seconds=0.05).post("/reload").status_code == 200


def test_requests_beyond_the_queue_are_turned_away() -> None:
    client, deadline = build_client(queue=1, timeout_seconds=3), time.monotonic() + 60
    with client:
        asking = threading.Thread(target=client.post, args=["/sleep"])
        asking.start()
        statuses = [client.post("/echo").status_code for _ in range(1)]
        while statuses[-1] == 200:  # the other has not arrived yet
            statuses.append(client.post("/echo").status_code)
        assert statuses[-1] == 429
        asking.join()
        while (status := client.post("/echo").status_code) == 429:  # an answer leaves before its place is free
            assert time.monotonic() < deadline
        assert status == 200


def test_pictures_have_a_queue_of_their_own() -> None:
    client = build_client(queue=1, timeout_seconds=3)
    with client:
        asking = [threading.Thread(target=lambda: answers.append(client.get("/image/图01.png"))) for _ in range(2)]
        answers: list[httpx.Response] = []
        for thread in asking:
            thread.start()
        while not answers:
            assert client.post("/echo").status_code == 200
        for thread in asking:
            thread.join()
        assert sorted(answer.status_code for answer in answers) == [429, 504]


def test_a_fault_of_ours_is_words_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    client = build_client()
    failed = client.post("/fail")
    assert failed.status_code == 500
    assert failed.json()["error"]["message"] == "the service could not answer; its log says why"
    assert "in fail\n" in caplog.text
    assert caplog.text.index("builtins.KeyError") < caplog.text.index("builtins.RuntimeError")
    counted = client.app.state.metrics.requests  # type: ignore[attr-defined]
    assert counted.labels("/fail", "500")._value.get() == 1
    assert client.get(f"/no such/{ASKED}").status_code == 404
    assert counted.labels("other", "404")._value.get() == 1  # no label is what a client wrote
    assert client.get("/half").content == b"half"
    assert "in stream\n" in caplog.text
    assert ASKED not in caplog.text
    build_client(log_queries=True).post("/fail")
    assert f"RuntimeError: no such text: {ASKED}" in caplog.text


def test_every_answer_keeps_scripts_of_others_out() -> None:
    answer = build_client().get("/about")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers
