"""Images behind URLs: fetched once into a cache, several at a time, with a line for each in a table of status.

    <TUWEN_CACHE>/pictures/<2 digits>/<sha256 of the URL>    the bytes
    <TUWEN_CACHE>/pictures/status.jsonl                      url, status, sha256, bytes, error; the last counts

A killed run goes on where it was; what failed is tried again in the next run.
"""

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tuwen.core.environment import locate_cache, require_writable
from tuwen.data.formats.text_files import TextRow

URL_STARTS = ("http://", "https://")
AT_ONCE = 16  # downloads
ROWS_AHEAD = 256  # of a table, whose images are fetched together
MAX_BYTES = 1 << 26  # of an image; a longer answer is cut off and refused
SILENCE_SECONDS = 30  # without a byte
TRIES = 3
PAUSE_SECONDS = 1.0  # before the second try, twice that before the third
REQUEST_HEADERS = {"User-Agent": "tuwen (Chinese image-text retrieval)", "Accept": "image/*"}


def is_url(name: str) -> bool:
    """Tell whether the name of an image is an address to fetch it from."""
    return name.lower().startswith(URL_STARTS)


def fetch_ahead(rows: Iterator[TextRow], image: str) -> Iterator[TextRow]:
    """Yield the rows of a table in order, each when the image behind its URL was fetched, or could not be.

    image: the column that may hold a URL. Raises UserError where the cache cannot be written.
    """
    with ThreadPoolExecutor(AT_ONCE) as threads:
        while group := list(islice(rows, ROWS_AHEAD)):
            cells = [cells[image] for _, cells in group]
            _fetch(dict.fromkeys(cell for cell in cells if isinstance(cell, str) and is_url(cell)), threads)
            yield from group


def read_url_image(url: str, sha256: str | None = None) -> tuple[bytes | None, str | None]:
    """Return (bytes, None) of an image that `fetch_ahead` has fetched, else (None, "not_fetched").

    sha256: of the bytes, if known; others are not taken.
    """
    path = _locate(url)
    if not path.is_file():
        return None, "not_fetched"
    data = path.read_bytes()
    return (data, None) if sha256 in (None, hashlib.sha256(data).hexdigest()) else (None, "not_fetched")


def _fetch(urls: Iterable[str], threads: ThreadPoolExecutor) -> None:
    wanted = [url for url in urls if not _locate(url).is_file()]
    if not wanted:
        return
    cache = locate_cache("pictures")
    require_writable(cache)
    with open(cache / "status.jsonl", "a", encoding="utf-8") as file:
        for line in threads.map(_fetch_one, wanted):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()


def _fetch_one(url: str) -> dict[str, Any]:
    """Fetch one image into the cache and return its line of status."""
    error = ""
    for attempt in range(TRIES):
        time.sleep(PAUSE_SECONDS * attempt)
        try:
            data = _download(url)
        except urllib.error.HTTPError as answer:
            error = f"HTTP {answer.code}"
            if answer.code < 500 and answer.code != 429:  # the server will say the same again
                break
        except (OSError, http.client.HTTPException, ValueError) as fault:
            error = f"{type(fault).__name__}: {fault}"
        else:
            if len(data) > MAX_BYTES:
                error = f"more than {MAX_BYTES} bytes"
                break
            _keep(url, data)
            digest = hashlib.sha256(data).hexdigest()
            return {"url": url, "status": "success", "sha256": digest, "bytes": len(data)}
    return {"url": url, "status": "failed_to_download", "error": error[:300]}


def _download(url: str) -> bytes:
    """Return what the address answers, one byte more than MAX_BYTES at most."""
    quoted = quote(url, safe="%/:=&?~#+!$,;'@()*[]")  # Chinese letters, as browsers do
    request = urllib.request.Request(quoted, headers=REQUEST_HEADERS)
    with urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as answer:
        data: bytes = answer.read(MAX_BYTES + 1)
        length = answer.headers.get("Content-Length")
    if length and len(data) <= MAX_BYTES and len(data) != int(length):
        raise OSError(f"the answer ended after {len(data)} of {length} bytes")
    return data


def _keep(url: str, data: bytes) -> None:
    """Write the bytes so that a killed run leaves none or all of them."""
    path = _locate(url)
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_bytes(data)
    part.replace(path)


def _locate(url: str) -> Path:
    digest = hashlib.sha256(url.encode()).hexdigest()
    return locate_cache("pictures") / digest[:2] / digest
