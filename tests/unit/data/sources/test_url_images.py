"""Images behind URLs of a real server: fetched once, several at a time, and each failure named."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.support.own_files import encode_photo, write_csv
from tuwen.core.params.root import check_source
from tuwen.data.sources import read_source, url_images
from tuwen.data.sources.records import ImageRecord


class Shop(BaseHTTPRequestHandler):
    """A shop's pictures: /<number>.jpg, and addresses that fail in several ways."""

    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        number = self.path.strip("/").removesuffix(".jpg")
        wrong = {"gone": 404, "broken": 503, "once": 503 if self.asked[self.path] == 1 else 200}
        bodies = {
            "login": b"\n<!DOCTYPE html><title>login</title>",
            "drawing": b'<?xml version="1.0"?>\n<svg></svg>',
        }
        body = encode_photo(int(number)) if number.isdigit() else bodies.get(number, b"x" * 40)
        self.send_response(wrong.get(number, 200))
        self.send_header("Content-Length", str(len(body) + (10 if number == "cut" else 0)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TUWEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(url_images, "PAUSE_SECONDS", 0.0)
    Shop.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def read_images(root: Path, urls: list[str]) -> list[ImageRecord]:
    write_csv(root / "pairs.csv", ("url", "caption"), [(url, f"商品{n}") for n, url in enumerate(urls)])
    settings = {"kind": "table", "root": str(root), "file": "pairs.csv", "image": "url", "captions": ["caption"]}
    records = read_source(check_source(settings))["labelled"]
    return [record for record in records if isinstance(record, ImageRecord)]


def read_status(tmp_path: Path) -> dict[str, str]:
    lines = (tmp_path / "cache/pictures/status.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["url"].rsplit("/", 1)[1]: line.get("error", line["status"]) for line in map(json.loads, lines)}


def test_pictures_are_fetched_once_and_failures_are_rows_with_a_fault(shop: str, tmp_path: Path) -> None:
    names = ("1.jpg", "2.jpg", "gone", "broken", "once", "cut")
    urls = [f"{shop}/{name}" for name in names]
    images = read_images(tmp_path / "a", urls)
    assert [image.fault for image in images] == [None, None, "not_fetched", "not_fetched", None, "not_fetched"]
    assert images[0].data == encode_photo(1)
    status = read_status(tmp_path)
    assert status["gone"] == "HTTP 404"
    assert status["broken"] == "HTTP 503"
    assert "40 of 50 bytes" in status["cut"] or "IncompleteRead" in status["cut"]
    assert Shop.asked == {"/1.jpg": 1, "/2.jpg": 1, "/gone": 1, "/broken": 3, "/once": 2, "/cut": 3}
    assert [image.data for image in read_images(tmp_path / "a", urls[:2])] == [encode_photo(1), encode_photo(2)]
    assert Shop.asked["/1.jpg"] == 1


def test_a_page_in_place_of_a_picture_is_a_fault_and_asked_for_again(shop: str, tmp_path: Path) -> None:
    urls = [f"{shop}/login", f"{shop}/drawing"]
    for again in (1, 2):
        assert [image.fault for image in read_images(tmp_path / "a", urls)] == ["not_fetched", None]
        assert Shop.asked == {"/login": again, "/drawing": 1}
    assert read_status(tmp_path)["login"] == "no picture, but a web page"


def test_a_picture_that_is_too_large_is_not_taken(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url_images, "MAX_BYTES", 39)
    assert read_images(tmp_path / "a", [f"{shop}/large"])[0].fault == "not_fetched"
    assert read_status(tmp_path)["large"] == "more than 39 bytes"


def test_a_kept_picture_of_another_hash_than_its_line_is_fetched_again(shop: str, tmp_path: Path) -> None:
    urls = [f"{shop}/3.jpg", f"{shop}/4.jpg"]
    read_images(tmp_path / "a", urls)
    cache = tmp_path / "cache/pictures"
    name = hashlib.sha256(urls[0].encode()).hexdigest()
    (cache / name[:2] / name).write_bytes(encode_photo(3)[:-9])  # cut by a full disk
    with open(cache / "status.jsonl", "a", encoding="utf-8") as file:
        file.write('{"url": "半')  # a killed run
    assert [image.data for image in read_images(tmp_path / "a", urls)] == [encode_photo(3), encode_photo(4)]
    assert Shop.asked == {"/3.jpg": 2, "/4.jpg": 1}


def test_an_address_with_chinese_letters_is_quoted(shop: str, tmp_path: Path) -> None:
    read_images(tmp_path / "a", [f"{shop}/图片/红烧肉 1.png?宽=3&高=%34"])
    (asked,) = Shop.asked
    assert asked == "/%E5%9B%BE%E7%89%87/%E7%BA%A2%E7%83%A7%E8%82%89%201.png?%E5%AE%BD=3&%E9%AB%98=%34"
